"""Sending what was planned: senders, and the dispatcher that hands them what is due."""
