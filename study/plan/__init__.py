"""Plans: what a study will do, and what it costs in time, disk space and machines."""
