"""Ctrl-C and the signals of those who stop programs: the first stops a study cleanly, the second immediately."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C; `docker stop`, `scancel`, `systemctl stop`; the end of the terminal or of the ssh connection."""


class Interrupts:
    """Handles SIGNALS while `watching`. The first raises KeyboardInterrupt; while `deferred` it only sets `received`.

    A second kills this process and all its children immediately, without waiting for a shutdown that may be slow or
    hang. That is safe, since stages and journal are written atomically. Only a process's main thread receives signals:
    in another thread, as of a job queue or a web application, nothing is handled.
    last_words: printed at a second signal; received: the first signal's number, 0 for none.
    """

    def __init__(self, last_words: str) -> None:
        self.last_words = last_words
        self.received = 0
        self._is_deferred = False

    @property
    def exit_status(self) -> int:
        """What a shell reports of a process that a signal ended: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
        return 128 + self.received

    @contextmanager
    def watching(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # nohup has SIGHUP ignored: the study outlives its terminal, as asked.
        watched = [
            number for number in SIGNALS if (number, signal.getsignal(number)) != (signal.SIGHUP, signal.SIG_IGN)
        ]
        before = {number: signal.signal(number, self._handle) for number in watched}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, the caller polls `received` and stops by itself."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGHUP:
            return  # the kernel and the shell both send it when a connection is lost
        if self.received:
            self._kill()
        self.received = number
        if not self._is_deferred:
            raise KeyboardInterrupt
        _write("\nstopping; press Ctrl-C again to stop immediately")

    def _kill(self) -> None:
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        _write(f"{SHOW_CURSOR if sys.stdout.isatty() else ''}{self.last_words}")
        os._exit(self.exit_status)


SHOW_CURSOR = "\x1b[?25h"  # the live table hides it


def _write(text: str) -> None:
    """Write to stderr unbuffered: the signal may have interrupted a buffered write."""
    with suppress(OSError):  # the terminal may be gone
        os.write(sys.stderr.fileno(), f"{text}\n".encode())
