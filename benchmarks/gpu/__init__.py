"""The paper's study on a GPU that is available for minutes: `python -m benchmarks.gpu`; see docs/gpu.md."""

import time

STARTED = time.monotonic()
"""When the program started: the time of a call includes that of its imports."""
