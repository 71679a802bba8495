"""The cached steps of a study: a student, a point, a probe."""
