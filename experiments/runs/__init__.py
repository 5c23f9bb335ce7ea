"""The files that a run leaves on disk. All other rooms read and write them through this one."""
