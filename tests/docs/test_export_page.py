"""The commands and the Python code of docs/export.md run, one after another, in a folder with a packed model."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

from kdq.__main__ import main
from kdq.models.classifier import Normalization, Signature, build
from kdq.pack.file import pack
from kdq.quantize.config import QuantizeConfig
from kdq.quantize.model import quantize

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^python -m kdq (.*)$", PAGE, re.MULTILINE)
CODE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the page speaks of; CIFAR-10 is not among its files."""
    model = build("resnet8", classes=3, normalization=Normalization((0.5,) * 3, (0.25,) * 3), seed=0)
    images = torch.randint(0, 256, (8, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    signature = Signature(("ant", "bee", "cat"), (8, 8), "RGB")
    pack(quantize(model, images, QuantizeConfig(4, "rtn")), tmp_path / "model.safetensors", signature)
    (tmp_path / "photographs").mkdir()
    for name in ("a.jpg", "b.png", "photographs/c.png"):
        Image.new("RGB", (20, 10), "red").save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_its_commands_and_its_code_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(COMMANDS) == 5
    for command in COMMANDS:
        assert main(shlex.split(command.replace(" --dataset cifar10 --data-dir DIR", ""))) == 0, command
    assert len(CODE) == 5
    capsys.readouterr()
    shared: dict[str, object] = {}
    for code in CODE:
        exec(code, shared)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("('ant', 'bee', 'cat') tensor(")
    assert shown[-2] in ("ant", "bee", "cat")
    assert shown[-1] == "resnet8 [0.5, 0.5, 0.5] [0.25, 0.25, 0.25] torch.Size([16, 3, 3, 3])"
    program = shared["model"]
    assert isinstance(program, torch.nn.Module)
    assert program(torch.zeros(2, 3, 8, 8)).shape == (2, 3)
