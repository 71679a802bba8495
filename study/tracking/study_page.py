"""What the page of a study's run in MLflow shows: a description with the answer, provenance, the data set."""

import getpass
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_GIT_COMMIT, MLFLOW_USER

from kdq.bits import bits_name
from study.results.front import SeedGroup, missing_seeds, seed_groups
from study.results.objective import TOP1
from study.results.point import Point
from study.tracking import schema

NOTE = "mlflow.note.content"
ROWS = 12  # of the front that the description lists
VERSIONS = ("torch", "ray", "mlflow", "optuna")
_SECONDS = 5.0  # within which git answers


@dataclass(frozen=True, slots=True)
class StudyPage:
    """What is known of a study before its trials run.

    question: what was asked, in Markdown; widths: of its points, 32 for float; parameters: the names of what its trials
    differ in; common: those of them that every trial has; dataset, fingerprint, images: the data set's name, its
    identity, its number of training images; seeds: how many the study has; teacher: its validation accuracy in percent,
    None without one.
    """

    question: str
    widths: Sequence[int]
    parameters: Sequence[str]
    common: Sequence[str]
    dataset: str
    fingerprint: str
    images: int
    seeds: int = 1
    teacher: float | None = None

    def description(self, study: str, command: str, points: Sequence[Point]) -> str:
        """Return the description of the study's run, in Markdown. points: with the front marked."""
        answer = ["### Answer so far", _answer(points, self.seeds)]  # first, since the page folds long descriptions
        rest = ["### What was asked", self.question, "### How to go on", _onwards(study, command)]
        return "\n\n".join([*answer, *rest])

    def input(self) -> DatasetInput:
        """Return the data set as an input of a run; its digest begins the fingerprint."""
        source = f'{{"fingerprint": "{self.fingerprint}"}}'
        described = Dataset(
            self.dataset, self.fingerprint[:32], "local", source, profile=f'{{"num_rows": {self.images}}}'
        )
        return DatasetInput(described, [InputTag(MLFLOW_DATASET_CONTEXT, "training")])


def provenance() -> Mapping[str, str]:
    """Return tags: the user, the machine, the versions of what computes, and the commit of a git checkout."""
    tags = {MLFLOW_USER: _user(), schema.MACHINE: f"{platform.node()}, {platform.system()} {platform.machine()}"}
    tags[f"{schema.VERSION}python"] = platform.python_version()
    for name in ("kdq", *VERSIONS):
        try:
            tags[f"{schema.VERSION}{name}"] = version(name)
        except PackageNotFoundError:  # kdq run from a checkout that is not installed
            continue
    commit = git_commit(Path(__file__).parents[2])
    return tags | ({MLFLOW_GIT_COMMIT: commit} if commit else {})


def git_commit(folder: Path) -> str:
    """Return the commit of the checkout in a folder, with `-dirty` if files differ from it; empty if it is none."""
    if not (folder / ".git").exists():
        return ""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):  # without git, or not the user's checkout
        return ""
    return found.stdout.strip()


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as in containers
        return "unknown"


def _answer(points: Sequence[Point], seeds: int) -> str:
    front = sorted((g for g in seed_groups(points) if g.on_front), key=lambda g: g.mean("total_bits"))
    if not front:
        return "no finished point yet"
    decides = front[0].decides
    rows = [_row(group) for group in front[:ROWS]]
    is_other = decides.name != TOP1
    head = [
        f"| total bits | width | configuration | seeds |{f' {decides.title} |' * is_other} validation | test |",
        f"| ---: | --- | --- | ---: |{' ---: |' * is_other} ---: | ---: |",
    ]
    by = f" by {decides.title}" if is_other else ""
    rest = [f"and {len(front) - ROWS} more in front.csv"] if len(front) > ROWS else []
    return "\n".join(
        [*head, *rows, "", f"The Pareto front, chosen on validation images{by}.", *rest, missing_seeds(points, seeds)]
    ).rstrip()


def _row(group: SeedGroup) -> str:
    named = " ".join(each for each in group.settings if not each.startswith("student=")).removeprefix("method=")
    accuracies = [f"{group.mean(name):.2f} %" for name in ("val_top1", "test_top1")]
    if group.decides.name != TOP1:
        accuracies = [group.decides.show(group.value), *accuracies]
    cells = [f"{group.mean('total_bits'):,.0f}", bits_name(group.bits), named, str(group.n), *accuracies]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _onwards(study: str, command: str) -> str:
    name = shlex.quote(study)  # the logged command has none: what it makes does not depend on it
    return (
        f"- resume it, or see that it is complete: `{command} --name {name}`\n"
        f"- the best within a budget, and why: `python -m analysis best --study {name} --max-bits 1e6`\n"
        f"- figures and tables: `python -m analysis --help`"
    )
