"""The study platform: Ray Tune schedules trials, each distills a student and quantizes it, MLflow records them."""
