"""`make ui`: MLflow's UI on the local store, and the links of each study's ready-made views."""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

from analysis.store import ENVIRONMENT, open_store
from kdq.errors import UserError, quoted
from study.tracking.uri import shown
from study.tracking.views import link

VIEWS = ("kdq-trials", "kdq-points", "kdq-front")
HOST = "127.0.0.1"
# Without its job queue, MLflow's server needs one process instead of four.
LIGHT = {**ENVIRONMENT, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the links and run MLflow's server until Ctrl-C; return status 2 after a UserError, printed in one line.

    If the store is a server, its own UI has the links, and none is started.
    """
    parser = argparse.ArgumentParser(prog="python -m analysis.ui", description=__doc__)
    parser.add_argument("--port", type=_port, default=5000, help="default: 5000")
    parser.add_argument("--tracking-uri", metavar="URI", help="default: $MLFLOW_TRACKING_URI, or mlruns/mlflow.db")
    options = parser.parse_args(arguments)
    try:
        store = open_store(options.tracking_uri)
        is_served = store.uri.startswith(("http://", "https://"))
        address = shown(store.uri) if is_served else f"http://{HOST}:{options.port}"
        for study in store.studies():
            print(f"{study.name}:")
            for view in VIEWS:
                name = view.removeprefix("kdq-")
                print(f"  {name:<7}{link(address, study.experiment_id, view)}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if is_served:
        return 0
    sys.stdout.flush()
    server = ["mlflow", "server", "--backend-store-uri", store.uri, "--host", HOST, "--port", str(options.port)]
    with suppress(KeyboardInterrupt):  # the way to end it
        return subprocess.call([sys.executable, "-m", *server, "--workers", "1"], env={**os.environ, **LIGHT})
    return 0


def _port(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"{quoted(text)}: must be a port from 1 to 65535")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
