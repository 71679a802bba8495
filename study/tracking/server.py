"""Waits for a tracking server that became unavailable, and runs again what failed meanwhile."""

import time
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar
from urllib.parse import urlsplit

from mlflow.exceptions import MlflowException
from requests import RequestException

from study.tracking.uri import shown

PATIENCE = 600.0  # seconds for which a study waits for a server that became unavailable
ATTEMPTS = 5  # per call, while the server comes and goes
PAUSE = 2.0  # seconds between two checks whether it is available again
Log = Callable[[str], None]
P = ParamSpec("P")
T = TypeVar("T")


class Waiter(Protocol):
    """Something whose methods may be retried."""

    def wait(self, error: MlflowException | RequestException) -> None:
        """Return when a method that failed with this error may run again; raise the error if it may not."""


W = TypeVar("W", bound=Waiter)


def retry(work: Callable[Concatenate[W, P], T]) -> Callable[Concatenate[W, P], T]:
    """Make a method wait for an unavailable server and run again, as in a driver that has just started."""

    @wraps(work)
    def retried(self: W, /, *args: P.args, **options: P.kwargs) -> T:
        for _ in range(ATTEMPTS - 1):
            try:
                return work(self, *args, **options)
            except (MlflowException, RequestException) as error:
                self.wait(error)
        return work(self, *args, **options)

    return retried


class Availability:
    """Whether a tracking server is available."""

    def __init__(self, uri: str, load: Callable[[], object], log: Log, is_interrupted: Callable[[], bool]) -> None:
        """load: reads from the server; log: prints a line to the user; is_interrupted: if true, there is no waiting."""
        self.uri, self.load, self.log, self.is_interrupted = uri, load, log, is_interrupted
        self._gave_up = False

    def wait(self, error: MlflowException | RequestException) -> None:
        """Wait until a server that failed with this error is available again; print that unless it is immediately.

        Raises the error for a local store, for a request that the server rejected, and if the server remains
        unavailable: when the study is interrupted, after PATIENCE seconds, or at once if an earlier wait failed.
        """
        until = time.monotonic() + PATIENCE
        if self._gave_up or urlsplit(self.uri).scheme not in ("http", "https") or is_rejected(error):
            raise error
        if self._is_available():  # after a connection that was idle for too long, for example
            return
        self.log(f"the MLflow server {shown(self.uri)} is unavailable; waiting for it, at most {PATIENCE / 60:.0f} min")
        while not self._is_available():
            if self.is_interrupted() or time.monotonic() > until:
                self._gave_up = True
                raise error
            time.sleep(PAUSE)
        self.log(f"the MLflow server {shown(self.uri)} is available again; the study continues")

    def _is_available(self) -> bool:
        try:
            self.load()
        except (MlflowException, RequestException):
            return False
        return True


def is_rejected(error: MlflowException | RequestException) -> bool:
    """Return whether the store responded and rejected the request."""
    return _http_status(error) < 500


def _http_status(error: MlflowException | RequestException) -> int:
    """Return the HTTP status of an error, 503 without a response. Artifact requests raise RequestException."""
    if isinstance(error, MlflowException):
        return int(error.get_http_status_code())  # type: ignore[no-untyped-call]
    return 503 if error.response is None else error.response.status_code
