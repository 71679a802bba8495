"""`study/run.py` without Ray: the trials run one after the other in the driver; all else is as a user has it.

For tests of what is not about Ray, which takes ten seconds of processor time to start and to stop.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from unittest.mock import patch

from study.backends import ray_tune
from study.backends.backend import Queue
from study.backends.inline import run_inline
from study.plan import estimate_time
from study.plan.estimate_time import Costs
from study.plan.resources import Resources
from study.run import main

COSTS = Costs(1.0, 1.0, 1.0, 1.0, 1.0, "")
"""Behind the time left, which has tests of its own; to measure them takes as long as a trial."""


def run_here(queue: Queue, resources: Resources, slots: int, folder: Path) -> None:
    """Run the trials in this process, on the CPU: the points must be those of a cluster of the tests."""
    run_inline(queue, replace(resources, gpus=0.0), slots, folder)


def inline_main(arguments: list[str] | None = None) -> int:
    """Run the study's command with these trials in place of Ray's, and these costs in place of measured ones."""
    with patch.object(ray_tune, "run_on_ray", run_here), patch.object(estimate_time, "measure", lambda *_, **__: COSTS):
        return main(arguments)


def call(main: Callable[[list[str]], int], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder as if by itself: its status and what it prints."""
    out, err = StringIO(), StringIO()
    with chdir(folder), redirect_stdout(out), redirect_stderr(err), patch.dict(os.environ):
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        status = main(list(arguments))
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


if __name__ == "__main__":
    sys.exit(inline_main())
