"""Terminal output: the live table, the summary and the causes of failures."""
