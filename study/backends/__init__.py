"""Where trials run: Ray Tune on this machine or on a cluster."""
