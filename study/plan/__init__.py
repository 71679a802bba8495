"""What a study will do, and what it costs in time, disk and machines."""
