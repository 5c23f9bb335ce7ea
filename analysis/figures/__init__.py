"""The figures: PDF, PNG and the numbers that they show."""
