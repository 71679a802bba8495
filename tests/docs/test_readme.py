"""The commands that the documentation shows are accepted by the command lines, and the README's Python code runs."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from analysis import __main__ as analysis
from kdq import plugins
from kdq.models.classifier import Classifier, Normalization, build
from kdq.models.evaluate import logits
from kdq.pack.file import payload_bytes
from study.commands.options import RunOptions, parse
from study.space.load import load_space
from study.space.workload import load_workload

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")]
TEXTS = [page.read_text(encoding="utf-8").replace("\\\n", " ") for page in PAGES]
BLOCKS = [block for text in TEXTS for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)]
COMMANDS = sorted(
    {line.strip() for block in BLOCKS for line in block.splitlines()}
    | {code for text in TEXTS for code in re.findall(r"`(python [^`]+)`", text)}
)
STUDIES = [line for line in COMMANDS if "study/run.py --" in line and "--help" not in line]
ANALYSES = [line for line in COMMANDS if "-m analysis " in line]
BENCHMARKS = [line for line in COMMANDS if "-m benchmarks." in line]


def words(command: str, after: str) -> list[str]:
    """The arguments of a command, without the comment behind it; variables of the shell stay as they are."""
    return shlex.split(command.partition(after)[2], comments=True)


def test_there_are_commands() -> None:
    assert min(len(STUDIES), len(ANALYSES), len(BENCHMARKS)) > 5


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The example of docs/plugins.md lies in the current folder; what is loaded of it is removed."""
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "mse.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    yield
    plugins.unload("mse.py")


@pytest.mark.parametrize("command", STUDIES)
@pytest.mark.usefixtures("plugin")
def test_a_study_is_accepted(command: str) -> None:
    options = parse(words(command, "study/run.py"))
    plugins.load_all(options.plugin)
    if isinstance(options, RunOptions) and options.space != "FILE":
        space_changes, workload_changes = options.changes()
        load_space(options.space, space_changes)
        load_workload(options.workload, workload_changes)


@pytest.mark.parametrize("command", ANALYSES)
def test_an_analysis_is_accepted(command: str) -> None:
    analysis._parser().parse_args(words(command, "-m analysis"))


@pytest.mark.parametrize("command", BENCHMARKS)
def test_a_benchmark_exists(command: str) -> None:
    name = words(command, "-m benchmarks.")[0].replace(".", "/")
    assert any((ROOT / "benchmarks" / file).is_file() for file in (f"{name}.py", f"{name}/__main__.py"))


def test_the_code_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    model = build("resnet8", classes=10, normalization=Normalization((0.5,) * 3, (0.25,) * 3), seed=0)
    images = torch.randint(0, 256, (16, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    given = {"model": model, "images": images}
    monkeypatch.chdir(tmp_path)
    exec(code, given)
    restored = given["restored"]
    assert isinstance(restored, Classifier)
    assert torch.equal(logits(restored, images), logits(given["quantized"].model, images))
    assert int(capsys.readouterr().out) == 8 * payload_bytes(tmp_path / "model.safetensors")
