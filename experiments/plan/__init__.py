"""From a profile to the runs it asks for, each checked before the first one trains."""
