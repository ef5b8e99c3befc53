"""Retrieval and ranking models, their evaluation, the bundle, promotion and the registry."""
