"""One HTML page about studies: offline, with linked pictures and a picker of budgets."""
