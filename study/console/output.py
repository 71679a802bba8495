"""Output whose reader may go away: a study outlives the program, terminal or connection that shows it."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TextIO, cast

GONE = "standard output is closed: the study continues without it; MLflow has its results"


class LastingOutput:
    """A text stream to which writing does nothing once its reader is gone (`| head`, a lost ssh connection).

    notice: printed to standard error then, once; empty for none.
    """

    def __init__(self, stream: TextIO, notice: str = "") -> None:
        self._stream, self._notice = stream, notice

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._discard(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._discard(error)

    def _discard(self, error: OSError) -> None:
        """Send nowhere what is buffered and what is written from now on; raise an error of another kind."""
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise error
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        if self._notice:
            print(self._notice, file=sys.stderr, flush=True)


@contextmanager
def lasting_output() -> Iterator[None]:
    """Have standard output and standard error outlive their readers in this block."""
    out, err = LastingOutput(_opened(sys.stdout), GONE), LastingOutput(_opened(sys.stderr))
    with redirect_stdout(cast(TextIO, out)), redirect_stderr(cast(TextIO, err)):
        yield


def _opened(stream: TextIO | None) -> TextIO:
    """Return a stream, or one that discards its text if the program was started with it closed (`>&-`).

    It takes the place among the system's file descriptors that was free, so that no other file is written to instead.
    """
    return stream or Path(os.devnull).open("w")
