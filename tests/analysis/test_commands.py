"""What every command has in common. A new command joins by itself, in every format and on every kind of study."""

import csv
import io
import json
import re
from html import unescape
from xml.etree import ElementTree

import pytest

from analysis.__main__ import COMMANDS as ALL
from analysis.__main__ import _parser, main
from analysis.formats import FORMATS, render
from kdq.errors import UserError

REQUIRED = {
    "best": ["--max-bits", "1e9"],
    "replay": ["--orders", "2"],
    "effect": ["alpha"],
    "heatmap": ["alpha", "method"],
}
COMMANDS = [command for command in ALL if command.NAME != "export"]  # it needs a real model: tests/study/test_answers
KINDS = {
    "empty": ["empty"],
    "one trial": ["one_trial"],
    "all failed": ["all_failed"],
    "normal": ["normal"],
    "by another metric": ["by_nll"],
    "two studies": ["normal", "other"],
}


def takes(name, destination):
    commands = next(action for action in _parser()._actions if action.dest == "command")
    return any(action.dest == destination for action in commands.choices[name]._actions)


def arguments(name, studies):
    """The arguments of a command on some studies; None if it takes fewer."""
    if takes(name, "a"):
        return [name, studies[0], studies[1]] if len(studies) > 1 else [name, "alpha=1", "alpha=9", "--study", *studies]
    if len(studies) > 1 and not takes(name, "studies"):
        return None
    named = [part for study in studies for part in ("--study", study)] if takes(name, "tracking_uri") else []
    return [name, *(named if name != "list" else []), *REQUIRED.get(name, [])]


def check_json(text):
    json.loads(text, parse_constant=lambda constant: pytest.fail(constant))


def check_csv(text):
    header, *rows = csv.reader(io.StringIO(text))
    assert all(header)
    assert all(len(row) == len(header) for row in rows)
    assert "nan" not in text.lower().replace("loss is nan", "")


def check_markdown(text):
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) <= 1
    assert "<" not in re.sub(r"\\<", "", text)


def check_latex(text):
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({len(re.findall(r"(?<!\\)&", line)) for line in lines}) <= 1
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert not re.search(r"(?<!\\)[%#_]", body)
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") <= 1


def check_table(text):
    assert text.strip()
    assert "nan" not in text.replace("loss is nan", "").split()


CHECKS = {"json": check_json, "csv": check_csv, "markdown": check_markdown, "latex": check_latex, "table": check_table}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [command.NAME for command in COMMANDS])
def test_every_command_answers_in_every_format_on_every_study(name, kind, shelf):
    given = arguments(name, KINDS[kind]) or arguments(name, KINDS[kind][:1])  # it may take one study only
    options = _parser().parse_args([*given, "--tracking-uri", shelf])
    try:
        report = options.run(options)
    except UserError as error:
        if kind in ("normal", "two studies") or "\n" in str(error):
            raise
        return
    for form, check in CHECKS.items():
        check(render(report, form))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.NAME)
def test_every_command_has_every_format_and_writes_a_file(command, shelf, tmp_path, capsys):
    assert set(FORMATS) == set(CHECKS) <= set(command.FORMATS)
    path = tmp_path / "new" / "file"
    given = arguments(command.NAME, KINDS["two studies"]) or arguments(command.NAME, KINDS["normal"])
    assert main([*given, "--tracking-uri", shelf, "--output", str(path)]) == 0
    assert path.read_text().endswith("\n")
    assert capsys.readouterr().out == ""


FIGURES = [command.NAME for command in COMMANDS if takes(command.NAME, "figure") and command.NAME != "replay"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_of_every_study_equal_ones_alike(name, kind, shelf, tmp_path):
    files = [tmp_path / f"{copy}.svg" for copy in range(2 if kind == "two studies" else 1)]
    for file in files:
        given = [*arguments(name, KINDS[kind]), "--tracking-uri", shelf, "--figure", str(file)]
        options = _parser().parse_args(given)
        try:
            assert f"figure {file}" in options.run(options).notes
        except UserError as error:  # such as an unknown parameter, where there is none
            if kind in ("normal", "two studies") or "\n" in str(error):
                raise
            assert not file.exists()
            return
    first, *others = (file.read_bytes() for file in files)
    ElementTree.fromstring(first)
    assert all(other == first for other in others)


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_names_literally(name, html_named, tmp_path):
    study, uri = html_named
    file = tmp_path / "f.svg"
    given = [*arguments(name, [study]), "--tracking-uri", uri, "--figure", str(file)]
    options = _parser().parse_args(given)
    if name == "rungs":  # this study has no scheduler
        return
    options.run(options)
    drawn = file.read_text()
    ElementTree.fromstring(drawn)
    titles = [unescape(text).strip() for text in re.findall(r"<!--(.*?)-->", drawn, flags=re.DOTALL)]
    assert any(text.startswith(study[:20]) for text in titles)  # long titles are cut in the middle


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_of_failures_says_what_failed(name, shelf, tmp_path):
    if name in ("rungs", "hypervolume", "importance"):  # they have lines of their own
        return
    file = tmp_path / "f.svg"
    given = [*arguments(name, ["all_failed"]), "--tracking-uri", shelf, "--figure", str(file)]
    options = _parser().parse_args(given)
    assert "no points; trials: 2 failed" in render(options.run(options), "table")
    assert "<!-- no points; trials: 2 failed -->" in file.read_text()


@pytest.mark.parametrize("name", [command.NAME for command in COMMANDS if command.NAME != "list"])
def test_every_command_suggests_a_study(name, shelf, capsys):
    assert main([*arguments(name, ["normol", "other"][: 2 if takes(name, "a") else 1]), "--tracking-uri", shelf]) == 2
    assert "did you mean 'normal'" in capsys.readouterr().err


def test_the_same_study_twice_is_refused(shelf, capsys):
    assert main(["points", "--study", "normal", "--study", "normal", "--tracking-uri", shelf]) == 2
    assert "'normal' is given twice" in capsys.readouterr().err
