"""The study file `study.json`, beside the journal: the study's settings and inputs, and how it ended."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kdq import plugins
from kdq.errors import UserError, first_line
from kdq.store.files import publish
from kdq.store.stage import Json, canonical
from study.control.journal import Extended, Journal
from study.control.trial_queue import TrialQueue
from study.plan.plan import VERSIONS, Plan
from study.results.status import StudyStatus
from study.schedulers.registry import stopping
from study.searchers.registry import make_searcher
from study.space.configuration import Configuration
from study.space.documents import validate
from study.space.load import read_space
from study.space.workload import Workload
from study.trial.trial import InputIds, Trial, make_trial

FILE = "study.json"
UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError, UserError)


def write_study_file(folder: Path, document: Mapping[str, Json], status: StudyStatus) -> None:
    """Write a study's settings, inputs and status."""
    publish(folder / FILE, canonical({**document, "status": status}).encode())


def is_completed(folder: Path) -> bool:
    """Return whether the study of this folder has run to its end."""
    try:
        return StudyFile.read(folder).status is StudyStatus.COMPLETED
    except UserError:
        return False


@dataclass(frozen=True, slots=True)
class StudyFile:
    """A study as its file describes it. inputs: the ids of the data, teacher and peer that it started from."""

    folder: Path
    settings: Mapping[str, Any]
    inputs: Mapping[str, str | None]
    status: StudyStatus

    @classmethod
    def read(cls, folder: Path) -> "StudyFile":
        """Read a study's file. Raises UserError for a damaged one, or one of another version of this program."""
        path = folder / FILE
        try:
            document = json.loads(path.read_text())
            read = cls(folder, **{**document, "status": StudyStatus(document["status"])})
            read._check()
            plugins.require(read.plugins, f"study {folder.name!r}")
            if read.is_current:
                planned(read.settings)
        except plugins.MissingPlugin:
            raise
        except UNREADABLE as error:
            raise UserError(
                f"{path}: damaged, or written by another version of this program ({first_line(error)}): run its "
                f"command again, or remove the folder {folder}"
            ) from None
        return read

    def _check(self) -> None:
        """Check the types of what every version's file has; raise one of UNREADABLE if one is wrong."""
        versions, seeds = self.versions, self.settings["seeds"]
        if not isinstance(versions, dict) or not all(type(version) is int for version in versions.values()):
            raise ValueError("settings.versions: must map names to whole numbers")
        if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
            raise ValueError("settings.seeds: must be a list of whole numbers")
        workload = self.settings["workload"]
        if not isinstance(workload, dict) or not isinstance(workload.get("student"), str):
            raise ValueError("settings.workload.student: must be a text")
        if not isinstance(self.inputs["data"], str):
            raise ValueError("inputs.data: must be a text")
        if not isinstance(self.plugins, dict) or not all(isinstance(each, str) for each in self.plugins.values()):
            raise ValueError("settings.plugins: must map names to texts")
        if not all(isinstance(stage, str | None) for stage in (self.teacher, self.peer)):
            raise ValueError("inputs.teacher and inputs.peer: each must be a text or null")

    @property
    def is_current(self) -> bool:
        """Whether this version of the program gives the study's trials the ids that they have."""
        return bool(self.versions == VERSIONS)

    @property
    def versions(self) -> Mapping[str, int]:
        """The versions of its stages by their kinds; empty if it names none."""
        found: Mapping[str, int] = self.settings.get("versions", {})
        return found

    @property
    def plugins(self) -> Mapping[str, str]:
        """The plugins that the study uses: name -> SHA-256."""
        found: Mapping[str, str] = self.settings.get("plugins", {})
        return found

    @property
    def data(self) -> str:
        return str(self.inputs["data"])

    @property
    def teacher(self) -> str | None:
        return self.inputs["teacher"]

    @property
    def peer(self) -> str | None:
        return self.inputs["peer"]

    @property
    def student(self) -> str:
        """The architecture of its students."""
        return str(self.settings["workload"]["student"])

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(self.settings["seeds"])

    def queue(self) -> TrialQueue:
        """Return its trials, replayed from the journal. Raises UserError if another version of this program ran it."""
        plan = planned(self.settings)
        return TrialQueue(make_searcher(plan), plan.seeds, self._make(plan), plan.make_scheduler(), self._journal)

    def former_trials(self) -> list[Trial]:
        """Return the trials of a study that another version ran to its end, as this version plans them.

        Raises UserError if this version cannot.
        """
        try:
            plan = planned(self.settings)
        except UNREADABLE as error:
            raise UserError(self._other_version(f"cannot read its settings ({first_line(error)})")) from None
        if plan.is_adaptive:
            raise UserError(self._other_version(f"cannot list the trials that {plan.space.searcher} proposed"))
        return [self._make(plan)(*run) for run in plan.runs]

    def _other_version(self, why: str) -> str:
        return (
            f"study {self.folder.name!r} was run by another version of this program, and this one {why}: prune it with "
            f"that version"
        )

    def earlier(self) -> Iterator[Trial]:
        """Yield the trials planned before each extension, many of which the study may still have.

        Nothing for `tpe` and `nsga2`, whose trials are not part of a plan. Raises UserError if the journal is damaged.
        """
        for record in self._journal.read():
            if isinstance(record, Extended):
                try:
                    plan = planned(record.settings)
                except UNREADABLE as error:
                    raise UserError(
                        f"{self._journal.path}: the settings before an extension are damaged ({first_line(error)}): "
                        f"remove the folder {self.folder}, or keep the study as it is"
                    ) from None
                yield from (self._make(plan)(*run) for run in plan.runs)

    @property
    def _journal(self) -> Journal:
        return Journal(self.folder / "journal.jsonl")

    def _make(self, plan: Plan) -> Callable[[Configuration, int], Trial]:
        return partial(make_trial, plan, InputIds(self.data, self.teacher, self.peer))


def planned(settings: Mapping[str, Any]) -> Plan:
    """Return the plan that `Plan.document` describes, without names and descriptions, which it leaves out."""
    space = {key: value for key, value in settings["space"].items() if key != "order" and value is not None}
    params = {name: space["params"][name] for name in settings["space"]["order"]}
    scheduler = space["scheduler"]
    if scheduler["name"] not in stopping():  # earlier versions kept settings without effect
        scheduler = scheduler["name"]
    searched = read_space({**space, "params": params, "scheduler": scheduler, "description": ""}, FILE)
    workload = validate({**settings["workload"], "description": ""}, Workload, FILE)
    return Plan("", "", searched, workload, tuple(settings["seeds"]))
