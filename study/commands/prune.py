"""Removes what a finished study no longer needs: students with their checkpoints, probes, the teacher's logits.

Points are kept, which mark its trials as finished, as are data, teacher and MLflow runs. If another study needs a
removed student later, it is retrained to identical weights.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdq.distill.teacher_logits import KIND as LOGITS
from kdq.errors import UserError, unknown
from kdq.pipeline.student import STUDENT_VERSION
from kdq.store.folder_store import StageStore
from study.commands.options import PruneOptions
from study.control.lock import study_lock
from study.control.study_file import FILE, StudyFile
from study.control.trial_queue import Entry
from study.plan.resources import root_folder
from study.results.status import StudyStatus, TrialStatus
from study.trial.trial import Trial
from study.units import size


def prune(options: PruneOptions) -> int:
    """List what a finished study does not need, and remove it if the user confirms. Returns the exit status.

    Raises UserError if the study is unknown, running or not finished.
    """
    root, name = root_folder(options.storage_path), options.prune
    folders = {file.parent.name: file.parent for file in (root / "studies").glob(f"*/{FILE}")}
    if name not in folders:
        raise unknown("study", name, folders) if folders else UserError(f"there is no study in {root}")
    with study_lock(root / "running", name):
        study = StudyFile.read(folders.pop(name))
        if study.status is not StudyStatus.COMPLETED:
            word = StudyStatus.INTERRUPTED if study.status is StudyStatus.RUNNING else study.status
            raise UserError(f"study {name!r} is not finished ({word}): run its command again until it is")
        store = StageStore(root / "stages")
        found = useless(study, [StudyFile.read(folder) for folder in folders.values()], store)
        for what, paths in found.items():
            print(f"{len(paths):>7} {what}: {size(sum(map(_disk_bytes, paths)))}")
        if not found:
            print(f"study {name}: nothing to remove")
        elif not options.dry_run and (options.yes or _is_confirmed()):
            for path in (path for paths in found.values() for path in paths):
                store.discard(path)
            print(f"study {name}: removed; its points and its MLflow runs are kept")
    return 0


def useless(study: StudyFile, others: Sequence[StudyFile], store: StageStore) -> dict[str, list[Path]]:
    """Return the folders that can be removed, by a description of their contents.

    Keeps what unfinished studies may need. Not all of their trials are known yet, so that is every student of their
    data, architecture and seeds, and all logits of their teachers for these seeds.
    """
    unfinished = [other for other in others if other.status is not StudyStatus.COMPLETED]
    needed = {(other.data, other.student, seed) for other in unfinished for seed in other.seeds}
    needed_logits = {(other.data, other.teacher, seed) for other in unfinished for seed in other.seeds}
    inputs = {stage for each in (study, *others) for stage in (each.teacher, each.peer)}
    version = study.versions.get("student", STUDENT_VERSION)  # an older one, if an older program ran the study
    specs = [student for trial in _past_trials(study, store) if (student := trial.student)]
    unused = {
        replace(spec.stage(epoch), version=version).id
        for spec in specs
        if (spec.data, spec.arch, spec.seed) not in needed
        for epoch in (None, *range(1, spec.train.epochs + 1))
    } - inputs
    unused_logits = {(spec.data, spec.teacher, spec.seed) for spec in specs} - needed_logits
    found = {
        "students": [folder for folder, _ in _stages(store, "student") if folder.name in unused],
        "probes of students": [folder for folder, stage in _stages(store, "probe") if stage["student"] in unused],
        "parts of the teacher's logits": [
            folder for folder, stage in _stages(store, LOGITS) if _source(stage) in unused_logits
        ],
    }
    return {what: folders for what, folders in found.items() if folders}


def _past_trials(study: StudyFile, store: StageStore) -> list[Trial]:
    """Return the trials of a finished study that need their students no more."""
    if not study.is_current:
        return study.former_trials()
    entries = study.queue().entries.values()
    return [*study.earlier(), *(entry.trial for entry in entries if _needs_no_student(entry, store))]


def _needs_no_student(entry: Entry, store: StageStore) -> bool:
    return entry.status.leaves_checkpoint or (entry.status is TrialStatus.COMPLETED and entry.trial.is_finished(store))


def _stages(store: StageStore, kind: str) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Yield the folder and the inputs of every stage of a kind."""
    for file in sorted((store.root / kind).glob("[0-9a-f]*/stage.json")):
        yield file.parent, json.loads(file.read_text())["inputs"]


def _source(logits: Mapping[str, Any]) -> tuple[str, str, int]:
    """Return the data, teacher and seed of a part of the teacher-logits cache."""
    return logits["data"], logits["teacher"], logits["stream_seed"]


def _disk_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*"))


def _is_confirmed() -> bool:
    """Ask the user to confirm the removal; raise UserError without a terminal."""
    if not sys.stdin.isatty():
        raise UserError("nothing was removed: confirmation needs a terminal; give --yes to remove without it")
    return input("remove them? [y/N] ").strip().lower() in ("y", "yes")
