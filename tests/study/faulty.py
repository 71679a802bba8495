"""`study/run.py`, some of whose trials fail: by their beta, in the worker, before the student's first epoch.

There is one GPU for Ray, and none for PyTorch. The file `attempts` gets a line a start: a trial's beta and its GPUs.
"""

import os
import signal
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ray
import torch

from study.backends import ray_tune
from study.run import main

HERE = Path.cwd()


def out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


def broken() -> None:
    raise ValueError("broken\nin two lines")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


FAULTS = {6: out_of_memory, 7: broken, 8: die}


def trainable(config: Mapping[str, Any]) -> None:
    """The study's own, with a fault: Ray takes it to the workers by value, since this is no module there."""
    from study.backends import ray_tune as real
    from study.trial import worker

    distill = worker.distill

    def faulty(*arguments: Any) -> Any:
        beta, gpus = config["trial"].parameters["beta"], ray.get_runtime_context().get_assigned_resources()["GPU"]
        with (HERE / "attempts").open("a") as attempts:
            attempts.write(f"{beta:g} {gpus:g}\n")
        FAULTS.get(beta, lambda: None)()
        return distill(*arguments)

    with patch.object(worker, "distill", faulty):
        real.trainable(config)


if __name__ == "__main__":
    with (
        patch.object(ray_tune, "trainable", trainable),
        patch.object(ray_tune.Resources, "device", "cpu"),
        patch.object(torch.cuda, "device_count", lambda: 1),
        patch.object(ray, "init", partial(ray.init, num_gpus=1)),
    ):
        sys.exit(main())
