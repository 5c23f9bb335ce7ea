"""Published numbers and claims, a folder for each paper, and the trend in PowerStep's own."""
