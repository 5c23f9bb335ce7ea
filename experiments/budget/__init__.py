"""The cost of a profile on this machine, before it starts."""
