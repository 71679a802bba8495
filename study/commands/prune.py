"""Removes what a finished study no longer needs: students with their checkpoints, probes, the teacher's logits.

Points are kept, which mark its trials as finished, as are data, teacher and MLflow runs. If another study needs a
removed student later, it is retrained to identical weights.
"""

import json
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from kdq.distill.teacher_logits import KIND as LOGITS
from kdq.errors import UserError, first_line, unknown
from kdq.pipeline.student import STUDENT_VERSION
from kdq.store.folder_store import StageStore
from study.commands.options import PruneOptions
from study.control.lock import study_lock
from study.control.study_file import FILE, UNREADABLE, StudyFile
from study.control.trial_queue import Entry
from study.plan.resources import root_folder
from study.results.status import StudyStatus, TrialStatus
from study.trial.trial import Trial
from study.units import size

SOURCE = ("data", "teacher", "stream_seed")
"""The inputs of a part of the teacher's logits that tell which students are taught by it."""


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
        others, damaged = _read_others(folders.values())
        found = useless(study, others, {_data(file, store) for file in damaged}, store)
        for what, paths in found.items():
            print(f"{len(paths):>7} {what}: {size(sum(map(_disk_bytes, paths)))}")
        if not found:
            print(f"study {name}: nothing to remove")
        elif not options.dry_run and (options.yes or _is_confirmed()):
            for path in (path for paths in found.values() for path in paths):
                store.discard(path)
            print(f"study {name}: removed; its points and its MLflow runs are kept")
    return 0


def _read_others(folders: Iterable[Path]) -> tuple[list[StudyFile], list[Path]]:
    """Return the other studies, and the files of damaged ones, each of which is named in a line."""
    studies, damaged = list[StudyFile](), list[Path]()
    for folder in folders:
        try:
            studies.append(StudyFile.read(folder))
        except UserError as error:
            print(f"warning: {error}; until then, all that this study may need is kept")
            damaged.append(folder / FILE)
    return studies, damaged


def _data(file: Path, store: StageStore) -> str | None:
    """Return the data of a study whose file is damaged, if it is still legible and in the store."""
    try:
        found = re.search(rb'"data":\s*"([0-9a-f]+)"', file.read_bytes())
    except OSError:
        return None
    data = found and found[1].decode()
    return data if data and (store.root / "data" / data).is_dir() else None


def useless(
    study: StudyFile, others: Sequence[StudyFile], damaged: Collection[str | None], store: StageStore
) -> dict[str, list[Path]]:
    """Return the folders that can be removed, by a description of their contents.

    Keeps what unfinished studies may need. Not all of their trials are known yet, so that is every student of their
    data, architecture and seeds, and all logits of their teachers for these seeds. damaged: the data of studies of
    which no more is known, None if not even that; they may need whatever is of their data.
    """
    unfinished = [other for other in others if other.status is not StudyStatus.COMPLETED]
    needed = {(other.data, other.student, seed) for other in unfinished for seed in other.seeds}
    needed_logits = {(other.data, other.teacher, seed) for other in unfinished for seed in other.seeds}

    def is_claimed(data: str) -> bool:
        return not {data, None}.isdisjoint(damaged)

    inputs = {stage for each in (study, *others) for stage in (each.teacher, each.peer)}
    version = study.versions.get("student", STUDENT_VERSION)  # an older one, if an older program ran the study
    specs = [student for trial in _past_trials(study, store) if (student := trial.student)]
    unused = {
        replace(spec.stage(epoch), version=version).id
        for spec in specs
        if (spec.data, spec.arch, spec.seed) not in needed and not is_claimed(spec.data)
        for epoch in (None, *range(1, spec.train.epochs + 1))
    } - inputs
    sources = {(spec.data, spec.teacher, spec.seed) for spec in specs if not is_claimed(spec.data)}
    unused_logits = sources - needed_logits
    found = {
        "students": [folder for folder, _ in _stages(store, "student") if folder.name in unused],
        "probes of students": [
            folder for folder, (student,) in _stages(store, "probe", "student") if student in unused
        ],
        "parts of the teacher's logits": [
            folder for folder, source in _stages(store, LOGITS, *SOURCE) if source in unused_logits
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


def _stages(store: StageStore, kind: str, *names: str) -> Iterator[tuple[Path, tuple[str | int, ...]]]:
    """Yield the folder of every stage of a kind, with these inputs; a damaged one is named in a line, and skipped."""
    for file in sorted((store.root / kind).glob("[0-9a-f]*/stage.json")):
        try:
            document = json.loads(file.read_bytes())["inputs"]
            inputs = tuple(document[name] for name in names)
            if not isinstance(document, dict) or not all(isinstance(value, str | int) for value in inputs):
                raise ValueError("its inputs are of wrong types")
        except UNREADABLE as error:
            print(f"warning: {file}: damaged, so it is kept ({first_line(error)})")
        else:
            yield file.parent, inputs


def _disk_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*"))


def _is_confirmed() -> bool:
    """Ask the user to confirm the removal; raise UserError without a terminal."""
    if not sys.stdin.isatty():
        raise UserError("nothing was removed: confirmation needs a terminal; give --yes to remove without it")
    try:
        return input("remove them? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:  # Ctrl-D
        print()
        return False
