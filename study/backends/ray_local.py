"""Ray on this machine alone: started for one study, its files in a private folder, no port open to other machines."""

from study.backends import ray_internals  # before ray: it sets what Ray reads when it is imported

# isort: split
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import ray
from filelock import FileLock, Timeout

from kdq.errors import first_line
from kdq.store.files import system_lock
from study.backends.ray_requirements import PREFIX, temporary_folder
from study.console import failures
from study.plan.resources import cores

DRIVER = "driver"
"""The file in Ray's folder that its driver has locked."""


class RayFailedError(Exception):
    """Ray did not start, or has died."""


@contextmanager
def local_ray() -> Iterator[Mapping[str, psutil.Process]]:
    """Run Ray with the cores that this process may use; give its processes that must live, by name.

    Its folder is removed, unless RayFailedError is raised: then the message names it. A driver that was killed leaves
    its folder to the next one.
    """
    _sweep(temporary_folder())
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=temporary_folder()))
    alive = _locked(folder)
    is_kept = False
    try:
        with ray_internals.own_token():
            try:
                yield _start(folder)
            finally:
                ray.shutdown()
    except RayFailedError as error:
        is_kept = True
        raise RayFailedError(f"{error} (Ray's logs: {folder})") from error
    finally:
        (folder / DRIVER).unlink(missing_ok=True)
        if not is_kept:
            shutil.rmtree(folder, ignore_errors=True)
        alive.release()


def _locked(folder: Path) -> FileLock:
    """Lock a folder as long as this process lives. The lock is taken under another name, so none is seen unlocked.

    On a file system without locks there is none, and nothing is swept.
    """
    lock = system_lock(folder / f".{DRIVER}")
    with suppress(OSError):
        lock.acquire()
        (folder / f".{DRIVER}").rename(folder / DRIVER)
    return lock


def _sweep(around: Path) -> None:
    """Remove the folders of this user's drivers that were killed. Ray's own processes have died with them."""
    for lock in around.glob(f"{PREFIX}*/{DRIVER}"):
        with suppress(Timeout, OSError), system_lock(lock, timeout=0):
            shutil.rmtree(lock.parent, ignore_errors=True)


def _start(folder: Path) -> Mapping[str, psutil.Process]:
    try:
        ray_internals.start_local(cores(), folder)
    except Exception as error:
        cause = failures.likely_cause(failures.full_text(error))
        reason = f"{first_line(error)}; {cause}" if cause else first_line(error)
        raise RayFailedError(f"Ray did not start: {reason}") from error
    return ray_internals.core_processes()
