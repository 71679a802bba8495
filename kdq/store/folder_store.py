"""The content-addressed store: a stage is looked up by what determines it, built once, and never incomplete."""

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
    """Stages as folders `root/kind/id`. A folder exists complete or not at all.

    Looking up a stage creates nothing. If several processes request the same stage, one builds it and the others
    wait; the lock is the operating system's, so it is released as soon as its holder is killed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, stage: Stage) -> Path:
        return self.root / stage.kind / stage.id

    def find(self, stage: Stage) -> Path | None:
        """Return the folder of a finished stage, or None."""
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
            shutil.rmtree(left)  # of a killed builder: we hold the lock, so no other process is building
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
        """Remove a stage if it exists."""
        if path := self.find(stage):
            self.discard(path)

    def discard(self, path: Path) -> None:
        """Rename a stage's folder out of sight in one step, then delete its files; safe in concurrent processes."""
        grave = path.with_name(f".removing-{uuid4().hex}")
        with suppress(FileNotFoundError):
            path.replace(grave)
            shutil.rmtree(grave)

    def lock(self, stage: Stage, timeout: float = -1) -> FileLock:
        """Return the build lock of a stage. Acquiring it raises filelock's Timeout after `timeout` seconds."""
        return system_lock(self.path(stage).with_suffix(".lock"), timeout=timeout)

    def leftovers(self) -> Iterator[Path]:
        """Yield folders half built or half removed, by killed processes or by running ones."""
        yield from self.root.glob("*/.removing-*")
        yield from self.root.glob("*/.making-*")

    def sweep(self) -> None:
        """Delete the leftovers of killed processes; safe while others build, remove or sweep."""
        for left in self.leftovers():
            kind, stage_id = left.name.split("-")[:2]
            held = system_lock(left.with_name(f"{stage_id}.lock"), timeout=0) if kind == ".making" else nullcontext()
            with suppress(Timeout, FileNotFoundError), held:
                shutil.rmtree(left)
