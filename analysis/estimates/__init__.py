"""Numbers that figures, tables and claims derive from the results, with their errors."""
