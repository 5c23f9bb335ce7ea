"""What is made of the runs: frames, tables, figures and a report, from files alone."""
