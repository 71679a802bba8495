"""Where a study runs: this machine, or the nodes of a cluster."""

import sys
from collections.abc import Sequence

from study.plan.resources import Machine, here


def machines_at(address: str | None) -> Sequence[Machine]:
    """What trials run on: this machine, or the nodes of a cluster, to which we are connected then.

    Warns of a version of Ray that is not tested, and raises UserError for one that trials cannot run on.
    """
    from study.backends.ray_internals import check_ray

    if warning := check_ray():
        print(warning, file=sys.stderr)
    if address is None:
        return [here()]
    from study.backends.ray_cluster import connect

    return connect(address)
