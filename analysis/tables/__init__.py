"""The tables, each as CSV, Markdown and LaTeX."""
