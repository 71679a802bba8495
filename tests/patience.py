"""How long tests wait, in one place: the seconds that an idle machine needs, times KDQ_PATIENCE (5 unless it is set).

The program itself waits for a cluster's nodes by the same variable, 1 unless it is set: its children here inherit ours.
"""

import os

PATIENCE = float(os.environ.setdefault("KDQ_PATIENCE", "5"))


def patient(seconds: float) -> float:
    """The seconds after which a test gives up what takes so many on an idle machine."""
    return seconds * PATIENCE
