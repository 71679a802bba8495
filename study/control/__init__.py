"""What drives a study: the trial queue, its journal, the study's file and lock."""
