"""Ctrl-C: once stops a study cleanly, twice at once. Nothing that was finished is lost either way."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil


class Interrupts:
    """Handles SIGINT while it is `watching`. The first raises KeyboardInterrupt, or is noted where that is `deferred`.

    A second ends this process and all that it started, then and there: no shutdown that may take its time or hang
    is waited for. That is safe, since stages and journal are on the disk whole or not at all.
    last_words: what a second one prints.
    """

    def __init__(self, last_words: str) -> None:
        self.last_words = last_words
        self.came = False
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
        """In here whoever works looks at `came`, and ends by himself."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.came:
            self._end_at_once()
        self.came = True
        if not self._is_deferred:
            raise KeyboardInterrupt
        _say("\nstopping; Ctrl-C again stops at once")

    def _end_at_once(self) -> None:
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        _say(f"{SHOW_CURSOR if sys.stdout.isatty() else ''}{self.last_words}")
        os._exit(130)


SHOW_CURSOR = "\x1b[?25h"  # a live table has hidden it


def _say(text: str) -> None:
    """Past Python's buffers, in whose midst a signal may come."""
    os.write(sys.stderr.fileno(), f"{text}\n".encode())
