"""How this program is called, for its help, its messages and MLflow."""

import sys
from pathlib import Path

CONSOLE_SCRIPT = "kdq-study"


def program_name() -> str:
    """`kdq-study` if the installed console script runs, else `python study/run.py`."""
    return CONSOLE_SCRIPT if Path(sys.argv[0]).stem == CONSOLE_SCRIPT else "python study/run.py"
