"""Where a study runs: its folder, its machines, and how many trials fit on them at a time."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdq.errors import UserError
from study.paths import user_path


@dataclass(frozen=True, slots=True)
class Resources:
    """What one trial takes: processor cores (its threads) and a share of a GPU."""

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
    """A machine that trials run on; id: Ray's for a node of a cluster, empty for the machine we are on."""

    name: str
    cores: float
    gpus: int
    id: str = ""

    def slots(self, trial: Resources) -> int:
        """How many such trials run here at a time; a trial with a share of a GPU has that of one GPU."""
        by_cpu = int(self.cores / trial.cpus)
        if not trial.gpus:
            return by_cpu
        by_gpu = self.gpus * int(1 / trial.gpus) if trial.gpus <= 1 else int(self.gpus / trial.gpus)
        return min(by_cpu, by_gpu)


def root_folder(given: str | None) -> Path:
    """The folder for all that a study keeps: `mlruns` if nothing is given.

    Raises UserError for a folder that is not there (a mistyped one would be made here, unseen by other machines) and
    for an address of an object store.
    """
    if given is None:
        return Path("mlruns").absolute()
    if "://" in given:
        raise UserError(
            f"--storage-path {given}: must be a folder, since trials lock what they make there, which object stores "
            f"cannot do; give one that all machines mount, such as NFS, EFS or Filestore"
        )
    folder = user_path(given)
    if not folder.is_dir():
        raise UserError(f"--storage-path {given}: there is no such folder; make or mount it")
    return folder.absolute()


def here() -> Machine:
    """This machine, with the cores that this process may use, which in a container are fewer than there are."""
    import torch

    return Machine("this machine", cores(), torch.cuda.device_count())


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resources(cpus: float | None, gpus: float | None, machines: Sequence[Machine]) -> Resources:
    """What a trial takes; on a CPU one thread a trial and as many trials as cores is fastest.

    cpus, gpus: what the user asks for, if anything. Raises UserError for what fits on none of the machines.
    """
    cpus, most = cpus or 1.0, max(machines, key=lambda machine: machine.gpus)
    gpus = min(most.gpus, 1) if gpus is None else gpus
    if gpus > most.gpus:
        raise UserError(f"--gpus-per-trial {gpus:g}: {most.name} has {most.gpus} GPUs; leave it out to use the CPU")
    if gpus > 1 and gpus != int(gpus):
        raise UserError(f"--gpus-per-trial {gpus:g}: must be a share of one GPU, or a whole number of them")
    largest = max((m for m in machines if m.gpus >= gpus), key=lambda machine: machine.cores)
    if cpus > largest.cores:
        raise UserError(f"--cpus-per-trial {cpus:g}: {largest.name} has {largest.cores:g} cores; give at most that")
    return Resources(cpus, gpus)


def slots(trial: Resources, machines: Sequence[Machine]) -> int:
    """How many trials run at a time, on all machines together."""
    return sum(machine.slots(trial) for machine in machines)
