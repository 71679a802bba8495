"""The name of this program, for its help, its messages and MLflow."""

import sys
from pathlib import Path

CONSOLE_SCRIPT = "kdq-study"


def program_name() -> str:
    """Return `kdq-study` if the installed console script is running, else `python study/run.py`."""
    return CONSOLE_SCRIPT if Path(sys.argv[0]).stem == CONSOLE_SCRIPT else "python study/run.py"
