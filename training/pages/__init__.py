"""Which page should a visitor see next, for value: the page graph, its optimal policy, and how well that holds."""
