"""Marquee's shared kernel: the contract, the settings and the policy that every other package imports."""
