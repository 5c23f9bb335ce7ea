"""The tables: numbers as CSV, and the same for readers as Markdown and LaTeX."""
