"""Where a study runs: this machine, or the nodes of a cluster."""

from collections.abc import Sequence

from study.plan.resources import Machine, here


def machines_at(address: str | None) -> Sequence[Machine]:
    """What trials run on: this machine, or the nodes of a cluster, to which we are connected then."""
    if address is None:
        return [here()]
    from study.backends.ray_cluster import connect

    return connect(address)
