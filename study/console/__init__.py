"""What the terminal shows: the live table, the summary, the causes of failures."""
