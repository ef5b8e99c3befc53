"""Feast: feature definitions, point-in-time training sets, materialisation and online reads."""
