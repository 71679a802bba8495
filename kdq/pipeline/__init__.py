"""The cached steps of a study: students, points, probes."""
