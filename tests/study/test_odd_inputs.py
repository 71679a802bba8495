"""Whatever text stands in a file, in --set or among the options: it is read, or refused in one clear message."""

import itertools
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdq.errors import UserError
from study.commands.options import PruneOptions, RunOptions, parse
from study.plan.plan import Plan, check_name
from study.plan.resources import root_folder
from study.space import load, workload
from study.space.documents import DEPTH, NODES, parse_scalar, read
from study.space.space import LARGEST
from study.tracking.uri import repeatable, tracking_uri

SHIPPED = [path.read_text() for folder in (load.FOLDER, workload.FOLDER) for path in sorted(folder.glob("*.yaml"))]

WORDS = """
params method ce dkd teacher alpha beta grid choice uniform loguniform int value when bits searcher trials scheduler
name grace_period tpe nsga2 random asha halving record train epochs batch_size lr augment crop_padding milestones
student dataset val_images quantizer train:resnet8 hub:a/b digits cifar10 0 1 8 32 -1 0.5 1e3 1e999 .nan .inf 5e-324
0x1F 017 1_000 190:20:30 1:59.5 2001-01-01 true no null ~ '' 9223372036854775807 9223372036854775808 100000 1000000000
[ ] { } : , - ? | > & * ! !!bool !!int !!float !!str !!map !!seq !!set !!omap !!timestamp !!binary !!python/tuple
%YAML --- ... << <<: &a *a &b *b # @ ` " ' = é 日 \x00 \x85 \u2028 \ufeff
"""
words = st.lists(st.sampled_from(WORDS.split()) | st.text(max_size=4), min_size=1, max_size=12).map(" ".join)
long_texts = st.sampled_from(["9" * 5000, "0x" + "f" * 5000, "x" * 300, "a/" * 3000, "[" * 500, "1:" * 400 + "1.5"])
texts = words | st.text() | long_texts

FLAGS = """
--workload --data-dir --name --epochs --trials --searcher --scheduler --seeds --bits --teacher --student --train-images
--set --cpus-per-trial --gpus-per-trial --address --storage-path --tracking-uri --retry-failed --extend --yes --dry-run
--prune --help
"""
VALUES = ["0,1,2", "1,", "٣", "²", "5000000000", "~nosuchuser", "~nosuchuser/x", "nan", "a\0b", "train.lr=1", "a=", "="]
KEYS = """
method alpha bits searcher trials scheduler train train.lr train.epochs train.augment train.augment.crop_padding
train.milestones val_images quantizer quantizer.params teacher teacher_train.epochs dataset train.x x .a a. ..
"""


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A shipped document of which a part is repeated, missing or replaced."""
    text = draw(st.sampled_from(SHIPPED))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 40)))
        other = draw(st.sampled_from(["", text[start:end] * 2]) | texts)
        text = text[:start] + other + text[end:]
    return text


def extent(value: Any) -> tuple[int, int]:
    """The number of values in a value, and their depth."""
    parts = list(itertools.chain(*value.items())) if isinstance(value, dict) else value
    if not isinstance(parts, list | set | tuple):
        return 1, 1
    inner = [extent(part) for part in parts]
    return 1 + sum(count for count, _ in inner), 1 + max((depth for _, depth in inner), default=0)


def check_message(error: UserError, lines: int = NODES) -> None:
    found = str(error).splitlines()
    assert 0 < len(found) <= lines
    assert all(0 < len(line) < 2000 for line in found)


def plan(options: RunOptions) -> Plan:
    """What the command makes of its options before anything runs."""
    space_changes, workload_changes = options.changes()
    space = load.load_space(options.space, space_changes)
    loaded = workload.load_workload(options.workload, workload_changes)
    made = Plan(Path(options.space).stem, Path(options.workload).stem, space, loaded, options.seeds)
    check_name(options.name or made.default_name)
    made.make_scheduler()
    return made


def check_command(arguments: list[str]) -> None:
    """The arguments are understood and lead to a plan within the limits, or are refused with status 2 or UserError."""
    output = StringIO()
    try:
        with redirect_stderr(output), redirect_stdout(output):
            options = parse(arguments)
        if isinstance(options, PruneOptions):
            return
        made = plan(options)
    except UserError as error:
        check_message(error)
    except SystemExit as end:
        assert end.code == 2 or "--help" in arguments  # noqa: PT017  (either outcome is right)
    else:
        assert made.space.count * len(made.seeds) <= LARGEST
        assert made.document()
        assert made.params()
        uri = options.tracking_uri and repeatable(options.tracking_uri)  # a printed command has no secrets
        assert parse(options.arguments()) == replace(options, tracking_uri=uri)


@given(texts | damaged())
def test_a_setting_is_read_or_refused(text: str) -> None:
    try:
        count, depth = extent(parse_scalar(text))
    except UserError as error:
        check_message(error, lines=1)
    else:
        assert count <= NODES
        assert depth <= DEPTH


@given(st.recursive(st.just("x"), lambda inner: st.lists(inner, max_size=9), max_leaves=40), st.data())
def test_aliases_are_within_the_limits_or_refused(tree: Any, data: st.DataObject) -> None:
    """Lists nested by aliases to earlier lists, as often as the tree has places: only the small are accepted."""
    lines = [f"a0: &a0 {tree}"]
    for level in range(1, data.draw(st.integers(1, 9))):
        earlier = data.draw(st.lists(st.integers(0, level - 1), min_size=1, max_size=9))
        lines.append(f"a{level}: &a{level} [{', '.join(f'*a{one}' for one in earlier)}]")
    text = "\n".join(lines)
    try:
        count, depth = extent(parse_scalar(text))
    except UserError as error:
        check_message(error, lines=1)
        assert "counting what aliases stand for" in str(error)  # noqa: PT017
    else:
        assert count <= NODES
        assert depth <= DEPTH


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(text=damaged() | texts, as_workload=st.booleans())
def test_a_file_is_read_or_refused(text: str, as_workload: bool, tmp_path: Path) -> None:
    path = tmp_path / "a file.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        document = read(path)
    except UserError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017
        check_message(error, lines=1)
    else:
        assert extent(document)[0] <= NODES
    check_command(["--space", "smoke", "--workload", str(path)] if as_workload else ["--space", str(path)])


settings_given = st.lists(st.tuples(st.sampled_from(KEYS.split()) | st.text(max_size=6), texts), min_size=1, max_size=3)
options_given = st.lists(
    st.tuples(st.sampled_from(FLAGS.split()), st.none() | st.sampled_from(VALUES) | texts), max_size=4
)


@given(settings_given, st.data())
def test_any_set_is_understood_or_refused(changes: list[tuple[str, str]], data: st.DataObject) -> None:
    space = data.draw(st.sampled_from(["smoke", "joint", "joint_ranges"]))
    check_command(["--space", space, *(text for key, value in changes for text in ("--set", f"{key}={value}"))])


@given(options_given, st.data())
def test_any_options_are_understood_or_refused(given: list[tuple[str, str | None]], data: st.DataObject) -> None:
    space = data.draw(st.sampled_from(["smoke", "joint", *VALUES]) | texts)
    check_command(["--space", space, *(text for pair in given for text in pair if text is not None)])


@pytest.mark.parametrize("flag", ["--space", "--workload", "--data-dir", "--storage-path"])
@pytest.mark.parametrize("path", ["x" * 300 + ".yaml", "~nosuchuser/x.yaml", "a/" * 3000 + ".yaml"])
def test_a_path_that_cannot_be_is_one_message_and_status_2(
    flag: str, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from study.run import main

    arguments = [flag, path] if flag == "--space" else ["--space", "smoke", "--set", "train.epochs=1", flag, path]
    try:
        status: object = main(arguments)
    except SystemExit as end:
        status = end.code
    assert status == 2
    assert len(capsys.readouterr().err.splitlines()[-1]) < 400


def test_the_home_folder_is_known_wherever_a_path_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "runs").mkdir()
    options = parse(["--space", "smoke", "--data-dir", "~/data"])
    assert isinstance(options, RunOptions)
    assert options.data_dir == tmp_path / "data"
    assert root_folder("~/runs") == tmp_path / "runs"
    assert tracking_uri("sqlite:///~/runs/mlflow.db") == f"sqlite:///{tmp_path}/runs/mlflow.db"


def test_a_tracking_store_whose_name_is_too_long_is_refused_before_mlflow_tries_it() -> None:
    with pytest.raises(UserError, match="File name too long"):
        tracking_uri(f"sqlite:///{'x' * 300}")
