"""The content-addressed store: a stage is found by what determines it, made once, and never half there."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from kdq.store.files import flush, system_lock
from kdq.store.stage import Stage


class StageStore:
    """Stages as folders `root/kind/id`. A folder is there whole or not at all.

    Looking a stage up creates nothing. Two processes that want the same stage wait for one of them; the lock
    is the operating system's, so that of a killed process is free at once.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, stage: Stage) -> Path:
        return self.root / stage.kind / stage.id

    def find(self, stage: Stage) -> Path | None:
        """The folder of a finished stage, or None."""
        path = self.path(stage)
        return path if path.is_dir() else None

    def make(self, stage: Stage, build: Callable[[Path], None]) -> Path:
        """The folder of the stage; `build` fills a new one if the stage is not there yet: see `building`."""
        with self.building(stage) as folder:
            if folder:
                build(folder)
        return self.path(stage)

    @contextmanager
    def building(self, stage: Stage) -> Iterator[Path | None]:
        """A new folder to fill, which is the stage's when the block ends; None if the stage is there already.

        The folder is temporary, flushed to the disk and renamed in one step, so a crash leaves either nothing that
        `find` can see or the whole. An error in the block, or its generator being closed, is raised and leaves nothing.
        """
        if self.find(stage):
            yield None
            return
        path = self.path(stage)
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.lock(stage) as lock:
            if self.find(stage):
                yield None
            else:
                with self._temporary(stage, path) as folder:
                    yield folder
            # Whoever waited on this file, or makes a new one, finds the stage: the lock has done its work.
            Path(lock.lock_file).unlink(missing_ok=True)

    @contextmanager
    def _temporary(self, stage: Stage, path: Path) -> Iterator[Path]:
        """A folder that becomes `path`."""
        for left in path.parent.glob(f".making-{stage.id}-*"):
            shutil.rmtree(left)  # of a builder that was killed: the lock is ours, nobody else is at it
        temporary = Path(tempfile.mkdtemp(prefix=f".making-{stage.id}-", dir=path.parent))
        try:
            yield temporary
            description = {"kind": stage.kind, "version": stage.version, "inputs": dict(stage.inputs)}
            (temporary / "stage.json").write_text(json.dumps(description, indent=1, sort_keys=True))
            for file in (*temporary.rglob("*"), temporary):
                flush(file)
            temporary.replace(path)
            flush(path.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def remove(self, stage: Stage) -> None:
        """Forget a stage, if it is there."""
        if path := self.find(stage):
            self.discard(path)

    def discard(self, path: Path) -> None:
        """Remove a stage's folder. It disappears in one step, then its files are deleted; two may try at once."""
        grave = path.with_name(f".removing-{uuid4().hex}")
        with suppress(FileNotFoundError):
            path.replace(grave)
            shutil.rmtree(grave)

    def lock(self, stage: Stage, timeout: float = -1) -> FileLock:
        """What the maker of a stage holds. Raises filelock's Timeout when it is not free in so many seconds."""
        return system_lock(self.path(stage).with_suffix(".lock"), timeout=timeout)

    def leftovers(self) -> Iterator[Path]:
        """What killed processes have left half made or half removed, and what others have in hand just now."""
        yield from self.root.glob("*/.removing-*")
        yield from self.root.glob("*/.making-*")

    def sweep(self) -> None:
        """Delete the leftovers of processes that were killed. Others may be at work, and sweep at once."""
        for left in self.leftovers():
            kind, stage_id = left.name.split("-")[:2]
            held = system_lock(left.with_name(f"{stage_id}.lock"), timeout=0) if kind == ".making" else nullcontext()
            with suppress(Timeout, FileNotFoundError), held:
                shutil.rmtree(left)
