"""The site of a study: where it runs, and where its results go."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from study.commands.options import RunOptions
from study.plan.resources import Machine, Resources, here, resources, root_folder, slots
from study.tracking.uri import tracking_uri


@dataclass(frozen=True, slots=True)
class Site:
    """root: the folder of all that a study keeps; resources: those of one trial; tracking_uri: MLflow's store."""

    root: Path
    machines: Sequence[Machine]
    resources: Resources
    tracking_uri: str

    @classmethod
    def at(cls, options: RunOptions) -> "Site":
        """Return the site that the options name; joins its cluster. Raises UserError if unavailable or too small."""
        root = root_folder(options.storage_path)
        machines = machines_at(options.address)
        trial = resources(options.cpus_per_trial, options.gpus_per_trial, machines)
        return cls(root, machines, trial, tracking_uri(options.tracking_uri, root))

    @property
    def slots(self) -> int:
        """The number of concurrent trials."""
        return slots(self.resources, self.machines)


def machines_at(address: str | None) -> Sequence[Machine]:
    """Return this machine, or join the cluster at `address` and return its nodes."""
    if address is None:
        return [here()]
    from study.backends.ray_cluster import connect

    return connect(address)
