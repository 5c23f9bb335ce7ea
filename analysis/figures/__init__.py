"""The figures, each as PDF, PNG and the numbers it shows."""
