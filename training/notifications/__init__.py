"""What to send to whom, when and how often: models of clicks and hours, a bandit, limits, and the plan."""
