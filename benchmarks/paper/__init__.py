"""The study paper's tables, figures and question, beside the same study run by this program."""
