"""Where a study runs, and where its results go."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from study.backends.ray_requirements import broken, check_version, temporary_folder
from study.commands.options import RunOptions
from study.plan.resources import Machine, Resources, here, resources, root_folder, slots
from study.tracking.uri import tracking_uri


@dataclass(frozen=True, slots=True)
class Site:
    """root: the folder of all that a study keeps; resources: what one trial takes; tracking_uri: of MLflow's store."""

    root: Path
    machines: Sequence[Machine]
    resources: Resources
    tracking_uri: str

    @classmethod
    def at(cls, options: RunOptions) -> "Site":
        """Return the site that the options name, its cluster joined. Raises UserError for a missing or unfit one."""
        root = root_folder(options.storage_path)
        machines = machines_at(options.address)
        trial = resources(options.cpus_per_trial, options.gpus_per_trial, machines)
        return cls(root, machines, trial, tracking_uri(options.tracking_uri, root))

    @property
    def slots(self) -> int:
        """How many trials run at a time."""
        return slots(self.resources, self.machines)


def machines_at(address: str | None) -> Sequence[Machine]:
    """Return what trials run on: this machine, or the nodes of a cluster, which we join for that.

    Warns of an untested version of Ray, and raises UserError for one that trials cannot run on. A tested one is not
    imported for that, which takes seconds. Raises UserError, too, if the program around us has a Ray of its own.
    """
    if warning := check_version():
        print(warning, file=sys.stderr)
        check_ray()
    if "ray" in sys.modules:
        from study.backends.ray_cluster import leave

        leave()
    if address is None:
        temporary_folder()
        return [here()]
    check_ray()
    from study.backends.ray_cluster import connect

    return connect(address)


def check_ray() -> None:
    """Import Ray; raise UserError if that fails, or if it lacks what trials are run with."""
    try:
        from study.backends.ray_internals import check_internals
    except ImportError as error:
        raise broken(error) from error
    check_internals()
