"""The control of a study: trial queue, journal, study file, lock and interrupts."""
