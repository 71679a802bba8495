"""Removes what a finished study no longer needs: students, what was kept of their training, teacher's logits.

Its points stay, and by them alone its trials are known to be finished; so do data, teacher and all that MLflow has. A
student that another study asks for later is trained again, to the same bits.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdq.distill.teacher_logits import KIND as LOGITS
from kdq.errors import UserError, unknown
from kdq.store.folder_store import StageStore
from study.commands.options import PruneOptions
from study.control.lock import study_lock
from study.control.study_file import FILE, StudyFile
from study.control.trial_queue import Entry
from study.plan.resources import root_folder
from study.results.status import StudyStatus, TrialStatus
from study.units import size


def prune(options: PruneOptions) -> int:
    """List what a finished study does not need, and remove it if the user agrees. Returns the exit status.

    Raises UserError for a study that is unknown, is being run, or is not finished.
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
            print(f"{len(paths):>7} {what}: {size(sum(map(_taken, paths)))}")
        if not found:
            print(f"study {name}: nothing to remove")
        elif not options.dry_run and (options.yes or _agrees()):
            for path in (path for paths in found.values() for path in paths):
                store.discard(path)
            print(f"study {name}: removed; its points, and all that MLflow has of it, are kept")
    return 0


def useless(study: StudyFile, others: Sequence[StudyFile], store: StageStore) -> dict[str, list[Path]]:
    """The folders that can go, by what they are.

    What a study that is not finished might want stays. Not all of its trials are known yet, so that is any student of
    its data, architecture and seeds, and all that its teacher said about the views of these seeds.
    """
    unfinished = [other for other in others if other.status is not StudyStatus.COMPLETED]
    wanted = {(other.data, other.student, seed) for other in unfinished for seed in other.seeds}
    heard = {(other.data, other.teacher, seed) for other in unfinished for seed in other.seeds}
    given = {stage for each in (study, *others) for stage in (each.teacher, each.peer)}
    entries = study.queue().entries.values()
    trials = [*study.earlier(), *(entry.trial for entry in entries if _needs_no_student(entry, store))]
    specs = [student for trial in trials if (student := trial.student)]
    gone = {
        spec.stage(epoch).id
        for spec in specs
        if (spec.data, spec.arch, spec.seed) not in wanted
        for epoch in (None, *range(1, spec.train.epochs + 1))
    } - given
    silent = {(spec.data, spec.teacher, spec.seed) for spec in specs} - heard
    found = {
        "students": [folder for folder, _ in _stages(store, "student") if folder.name in gone],
        "probes of students": [folder for folder, inputs in _stages(store, "probe") if inputs["student"] in gone],
        "parts of the teacher's logits": [
            folder for folder, inputs in _stages(store, LOGITS) if _shown(inputs) in silent
        ],
    }
    return {what: folders for what, folders in found.items() if folders}


def _needs_no_student(entry: Entry, store: StageStore) -> bool:
    return entry.status.leaves_checkpoint or (entry.status is TrialStatus.COMPLETED and entry.trial.is_finished(store))


def _stages(store: StageStore, kind: str) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Every stage of a kind: its folder and its inputs."""
    for file in sorted((store.root / kind).glob("[0-9a-f]*/stage.json")):
        yield file.parent, json.loads(file.read_text())["inputs"]


def _shown(logits: Mapping[str, Any]) -> tuple[str, str, int]:
    """The data, teacher and seed of a part of the teacher-logits cache."""
    return logits["data"], logits["teacher"], logits["stream_seed"]


def _taken(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*"))


def _agrees() -> bool:
    """What the user answers. Raises UserError where nobody can be asked."""
    if not sys.stdin.isatty():
        raise UserError("nothing was removed, since there is no terminal to ask at: give --yes to remove it")
    return input("remove them? [y/N] ").strip().lower() in ("y", "yes")
