"""Analysis of the runs, from their files alone: tables, figures, verdicts and a report."""
