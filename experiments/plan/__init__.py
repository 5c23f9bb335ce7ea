"""The plan: the runs that a profile asks for, all checked before the first one is trained."""
