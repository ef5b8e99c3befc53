"""How data gets in: sources, the simulator, the event log and its exactly-once load."""
