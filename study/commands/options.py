"""The options of the command line, and the changes they make to a space and a workload."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from kdq.errors import UserError, quoted
from study.console.program import program_name
from study.paths import ROOT, user_path
from study.schedulers.registry import SCHEDULERS
from study.space.documents import WHOLE, descriptions, parse_scalar
from study.space.searchers import SEARCHERS
from study.tracking.uri import repeatable


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of a study; None leaves a choice to the space, the workload or the machine.

    set: the `key=value` texts of --set.
    """

    space: str
    workload: str = "digits"
    data_dir: Path | None = None
    dataset: str | None = None
    name: str | None = None
    epochs: int | None = None
    trials: int | None = None
    searcher: str | None = None
    scheduler: str | None = None
    seeds: tuple[int, ...] = (0,)
    bits: tuple[int, ...] | None = None
    teacher: str | None = None
    student: str | None = None
    train_images: int | None = None
    set: tuple[str, ...] = ()
    cpus_per_trial: float | None = None
    gpus_per_trial: float | None = None
    address: str | None = None
    storage_path: str | None = None
    tracking_uri: str | None = None
    retry_failed: bool = False
    extend: bool = False
    dry_run: bool = False
    plugin: tuple[Path, ...] = ()

    def arguments(self) -> list[str]:
        """Return the shortest command-line arguments with the same meaning, without a tracking server's password."""
        given = [(field.name, getattr(self, field.name)) for field in fields(self)]
        changed = {field.name: field.default for field in fields(self)}
        return [text for name, value in given if value != changed[name] for text in _argument(name, value)]

    def changes(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the changes to the space and to the workload by dotted key; raise UserError for a malformed --set."""
        from kdq.distill.methods import parameters
        from study.space.load import SEARCH_KEYS

        space = {"bits": self.bits, "trials": self.trials, "searcher": self.searcher, "scheduler": self.scheduler}
        workload = {
            "dataset": self.dataset,
            "train.epochs": self.epochs,
            "teacher": self.teacher,
            "student": self.student,
            "train_images": self.train_images,
        }
        for text in self.set:
            key, equals, value = text.partition("=")
            if not equals or not key:
                raise UserError(f"--set {quoted(text)}: must be key=value, such as train.lr=0.05 or temperature=2")
            is_of_space = key in (*parameters(), "method", *SEARCH_KEYS) or key.startswith("scheduler.")
            target = space if is_of_space else workload
            target[key] = parse_scalar(value)
        return _given(space, self.set), _given(workload, self.set)


@dataclass(frozen=True, slots=True)
class PruneOptions:
    """The options of --prune. yes: remove without confirmation; dry_run: only list."""

    prune: str
    storage_path: str | None = None
    yes: bool = False
    dry_run: bool = False
    plugin: tuple[Path, ...] = ()

    def arguments(self) -> list[str]:
        """Return the command-line arguments."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return [text for name, value in given.items() if value for text in _argument(name, value)]


def _given(changes: dict[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    """Return the changes without options that were not given; a null given by --set is kept."""
    keys = {text.partition("=")[0] for text in texts}
    return {key: value for key, value in changes.items() if value is not None or key in keys}


def _argument(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if value is True:
        return [flag]
    if name in ("set", "plugin"):
        return [text for each in value for text in _flag(flag, str(each))]
    if name == "tracking_uri":
        value = repeatable(value)
    return _flag(flag, ",".join(map(str, value)) if isinstance(value, tuple) else str(value))


def _flag(flag: str, text: str) -> list[str]:
    return [f"{flag}={text}"] if text.startswith("-") else [flag, text]


def parse(arguments: Sequence[str] | None) -> RunOptions | PruneOptions:
    """Return the options of a command line, by default this process's; exit with status 2 if argparse rejects it."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.prune is None:
        if options.yes:
            parser.error("--yes: only allowed with --prune")
        return RunOptions(**{field.name: _frozen(getattr(options, field.name)) for field in fields(RunOptions)})
    known = [field.name for field in fields(PruneOptions)]
    given = [key for key, value in vars(options).items() if key not in known and value != parser.get_default(key)]
    if given:
        others = ", ".join(f"--{key.replace('_', '-')}" for key in given)
        parser.error(f"--prune: not allowed with {others}; it takes --yes, --dry-run, --plugin and --storage-path")
    return PruneOptions(**{name: _frozen(getattr(options, name)) for name in known})


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program_name(),
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Search a space of distillation and quantization on a workload; every run goes to MLflow.",
        epilog=_listing(),
    )
    add = parser.add_argument
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--space", metavar="NAME|FILE", help="search space: a name below or a YAML file")
    what.add_argument("--prune", metavar="STUDY", help="list, and remove if confirmed, what a finished study can spare")
    add(
        "--workload",
        default="digits",
        metavar="NAME|FILE",
        help="data set, teacher, student and recipe (default: digits)",
    )
    add(
        "--plugin",
        action="append",
        default=[],
        type=_path,
        metavar="FILE.py",
        help="Python file that adds methods, quantizers, data sets, models, schedulers or searchers (docs/plugins.md)",
    )
    add(
        "--data-dir",
        type=_path,
        metavar="DIR",
        help="folder with CIFAR as Hub-layout parquet, checkpoints/, and below which --dataset's DIR is",
    )
    add(
        "--name",
        metavar="STUDY",
        help="name of the study; the same name and settings resume it",
    )
    _add_settings(parser.add_argument)
    _add_place(parser.add_argument)
    _add_onwards(parser.add_mutually_exclusive_group().add_argument)
    add(
        "--dry-run",
        action="store_true",
        help="only print trials, students, points, time and disk space (with --prune: the list)",
    )
    add("--yes", action="store_true", help="with --prune: remove without confirmation")
    return parser


def _add_onwards(add: Callable[..., object]) -> None:
    """Add the options that continue a study otherwise than by resuming it."""
    add(
        "--retry-failed",
        action="store_true",
        help="run only the trials that failed, ran out of memory or diverged",
    )
    add(
        "--extend",
        action="store_true",
        help="change the space, seeds or epochs of a study: keep common trials, run the rest",
    )


def _add_settings(add: Callable[..., object]) -> None:
    """Add the options that determine a study's trials."""
    add("--epochs", type=_count, metavar="N", help="training epochs of a student")
    add("--trials", type=_count, metavar="N", help="maximum number of configurations")
    add("--searcher", metavar="NAME", help="override the space's: one of the searchers below")
    add("--scheduler", metavar="NAME", help="override the space's: one of the schedulers below")
    add(
        "--seeds",
        type=_integers,
        default=(0,),
        metavar="0,1,2",
        help="repeat every configuration with each seed (default: 0)",
    )
    add("--bits", type=_integers, metavar="2,3,4,8", help="bit widths at which every student is quantized")
    add("--dataset", metavar="SPEC", help="digits, cifar10, cifar100, folder:DIR, parquet:DIR or torchvision:NAME")
    add("--teacher", metavar="SPEC", help="ARCH:PATH[#KEY], hub:REPO, transformers:REPO_OR_FOLDER or train:ARCH")
    add("--student", metavar="ARCH", help="such as resnet20, torchvision:mobilenet_v3_small or python:FILE.py:FUNCTION")
    add("--train-images", type=_count, metavar="N", help="train on this many images, stratified by class")
    add(
        "--set",
        action="append",
        default=[],
        metavar="key=value",
        help="override any setting, such as train.lr=0.05",
    )


def _add_place(add: Callable[..., object]) -> None:
    """Add the options for where trials run and results go."""
    add("--cpus-per-trial", type=_positive, metavar="X", help="CPU cores, and threads, of a trial (default: 1)")
    add(
        "--gpus-per-trial",
        type=_share,
        metavar="X",
        help="GPUs of a trial, or a share of one (default: 1 if available)",
    )
    add("--address", metavar="ADDRESS", help="Ray cluster to run on: auto, HOST:PORT or ray://HOST:PORT")
    add("--storage-path", metavar="DIR", help="folder for all results, shared by all machines (default: mlruns)")
    add(
        "--tracking-uri",
        metavar="URI",
        help="MLflow store or server (default: $MLFLOW_TRACKING_URI, or mlflow.db in the storage path)",
    )


def _listing() -> str:
    folders = {"spaces": ROOT / "search_spaces", "workloads": ROOT / "study" / "workloads"}
    lines = []
    for title, folder in folders.items():
        lines += _section(title, descriptions(folder))
    schedulers = {name: scheduler.description for name, scheduler in SCHEDULERS.items()}
    return "\n".join(lines + _section("searchers", SEARCHERS) + _section("schedulers", schedulers))


def _section(title: str, entries: Mapping[str, str]) -> list[str]:
    return [f"{title}:", *(f"  {name:<19}{text}" for name, text in entries.items()), ""]


def _path(text: str) -> Path:
    try:
        return user_path(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _count(text: str) -> int:
    number = _whole(text)
    if not number:
        raise argparse.ArgumentTypeError(f"{quoted(text)}: must be a whole number, at least 1 and below 2^63")
    return number


def _integers(text: str) -> tuple[int, ...]:
    numbers = [_whole(part.strip()) for part in text.split(",")]
    if any(number is None for number in numbers):
        rule = "must be comma-separated whole numbers below 2^63, such as 0,1,2"
        raise argparse.ArgumentTypeError(f"{quoted(text)}: {rule}")
    return tuple(dict.fromkeys(number for number in numbers if number is not None))


def _whole(text: str) -> int | None:
    """Return a whole number from 0 to 2^63 - 1; None for any other text."""
    number = int(text) if text.isdecimal() and len(text) < 20 else WHOLE
    return number if number < WHOLE else None


def _positive(text: str) -> float:
    value = _share(text)
    if value < 0.01:
        raise argparse.ArgumentTypeError(f"{quoted(text)}: must be at least 0.01")
    return value


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{quoted(text)}: must be a number, at least 0")
    return value
