"""Removes the last checkpoints of trials that were stopped or diverged, once no worker uses them."""

from collections.abc import Mapping

from kdq.pipeline.student import forget
from kdq.store.folder_store import StageStore
from study.control.trial_queue import Entry


class Checkpoints:
    """The checkpoints of a study's students in a store."""

    def __init__(self, store: StageStore) -> None:
        self.store = store
        self._removed: set[str] = set()
        self._students: dict[str, str] = {}

    def clear(self, entries: Mapping[str, Entry]) -> None:
        """Remove those that no trial will resume from; one that a worker still holds is left to the next call."""
        if left := [
            key for key, entry in entries.items() if entry.status.leaves_checkpoint and key not in self._removed
        ]:
            needed = {self._student(key, entry) for key, entry in entries.items() if not entry.status.is_result}
            self._removed |= {key for key in left if self._remove(key, entries[key], needed)}

    def _remove(self, key: str, entry: Entry, needed: set[str]) -> bool:
        student = entry.trial.student
        return student is None or (self._student(key, entry) not in needed and forget(self.store, student))

    def _student(self, key: str, entry: Entry) -> str:
        """Return the id of a trial's student, which trials that differ only in bits share."""
        if key not in self._students:
            self._students[key] = entry.trial.model_id
        return self._students[key]
