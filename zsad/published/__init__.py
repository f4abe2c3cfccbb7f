"""What the papers printed: tables as data, and how their rows are made again."""
