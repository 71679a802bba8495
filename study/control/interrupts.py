"""Ctrl-C: the first stops a study cleanly, the second immediately. No finished result is lost either way."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil


class Interrupts:
    """Handles SIGINT while `watching`. The first raises KeyboardInterrupt; while `deferred` it only sets `received`.

    A second kills this process and all its children immediately, without waiting for a shutdown that may be slow or
    hang. That is safe, since stages and journal are written atomically.
    last_words: printed at a second SIGINT.
    """

    def __init__(self, last_words: str) -> None:
        self.last_words = last_words
        self.received = False
        self._is_deferred = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        before = signal.signal(signal.SIGINT, self._handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, the caller polls `received` and stops by itself."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            self._kill()
        self.received = True
        if not self._is_deferred:
            raise KeyboardInterrupt
        _write("\nstopping; press Ctrl-C again to stop immediately")

    def _kill(self) -> None:
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        _write(f"{SHOW_CURSOR if sys.stdout.isatty() else ''}{self.last_words}")
        os._exit(130)


SHOW_CURSOR = "\x1b[?25h"  # the live table hides it


def _write(text: str) -> None:
    """Write to stderr unbuffered: the signal may have interrupted a buffered write."""
    os.write(sys.stderr.fileno(), f"{text}\n".encode())
