"""The resources of a study: its folder, its machines, and how many concurrent trials fit on them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdq.errors import UserError, quoted
from study.paths import user_path


@dataclass(frozen=True, slots=True)
class Resources:
    """The resources of one trial: CPU cores (one thread each) and GPUs, or a share of one."""

    cpus: float
    gpus: float

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"

    @property
    def threads(self) -> int:
        return max(1, int(self.cpus))


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that trials run on. id: Ray's id of a cluster node, empty for this machine."""

    name: str
    cores: float
    gpus: int
    id: str = ""

    def slots(self, trial: Resources) -> int:
        """Return how many such trials fit here at a time; a share of a GPU is never split over two GPUs."""
        by_cpu = int(self.cores / trial.cpus)
        if not trial.gpus:
            return by_cpu
        by_gpu = self.gpus * int(1 / trial.gpus) if trial.gpus <= 1 else int(self.gpus / trial.gpus)
        return min(by_cpu, by_gpu)


def root_folder(path: str | None) -> Path:
    """Return the absolute folder for all that a study keeps, `mlruns` by default.

    Raises UserError if the folder does not exist (a mistyped one would be created here, invisible to other machines),
    is the address of an object store, or has a name that is not UTF-8, which MLflow cannot write down.
    """
    root = Path("mlruns").absolute() if path is None else _existing_folder(path)
    try:
        str(root).encode()
    except UnicodeEncodeError:
        raise UserError(f"folder {quoted(str(root))}: its name is not UTF-8; rename it, or use another") from None
    return root


def _existing_folder(path: str) -> Path:
    if "://" in path:
        raise UserError(
            f"--storage-path {path}: must be a folder, since trials lock their stages there, which object stores do "
            f"not support; use one that all machines mount, such as NFS, EFS or Filestore"
        )
    folder = user_path(path)
    if not folder.is_dir():
        raise UserError(f"--storage-path {path}: there is no such folder; create or mount it")
    return folder.absolute()


def here() -> Machine:
    """Return this machine with the cores available to this process, in a container fewer than the machine has."""
    import torch

    return Machine("this machine", cores(), torch.cuda.device_count())


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resources(cpus: float | None, gpus: float | None, machines: Sequence[Machine]) -> Resources:
    """Return the resources of a trial. On a CPU, one thread per trial and one trial per core are fastest.

    cpus, gpus: the user's options, None for the defaults. Raises UserError if a trial fits on no machine.
    """
    cpus, most = cpus or 1.0, max(machines, key=lambda machine: machine.gpus)
    gpus = min(most.gpus, 1) if gpus is None else gpus
    if gpus > most.gpus:
        raise UserError(
            f"--gpus-per-trial {gpus:g}: {most.name} has {most.gpus} GPUs; give at most that, or 0 for the CPU"
        )
    if gpus > 1 and gpus != int(gpus):
        raise UserError(f"--gpus-per-trial {gpus:g}: must be a share of one GPU, or a whole number of GPUs")
    largest = max((m for m in machines if m.gpus >= gpus), key=lambda machine: machine.cores)
    if cpus > largest.cores:
        raise UserError(f"--cpus-per-trial {cpus:g}: {largest.name} has {largest.cores:g} cores; give at most that")
    return Resources(cpus, gpus)


def slots(trial: Resources, machines: Sequence[Machine]) -> int:
    """Return the number of concurrent trials on all machines together."""
    return sum(machine.slots(trial) for machine in machines)
