"""What travels to the GPU's machine, written beforehand into one folder a call.

1/ has the code's two small dependencies, the rows, the CPU's results to compare with, and the first part of CIFAR-10;
2/, 3/, … have one part each, and the rest of a data set that is much smaller than a part.
"""

import json
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.gpu.checks import EXPECTED, evidence
from benchmarks.gpu.parts import split
from benchmarks.gpu.settings import DATASETS, ROWS
from kdq.data.sources import load_source
from kdq.distill.teachers import find_checkpoint
from kdq.store.folder_store import StageStore

PACKAGES = ("filelock", "safetensors")
"""What kdq needs beyond torch and torchvision, copied from here: filelock runs under Python 3.11 and newer (4.3.1), and
safetensors under 3.10 and newer (0.8.0), on the processor and the system that it was installed for."""

CHECKPOINT = "resnet20.th"
SMALL_SHARE = 0.1  # a part below this share of the limit travels with the one before it


def prepare(data_dir: Path, target: Path, most: int) -> list[Path]:
    """Write the folders, each of at most `most` bytes and a few MB; return them."""
    first = target / "1"
    (first / "site").mkdir(parents=True)
    with tempfile.TemporaryDirectory() as temporary:
        store, parts = StageStore(Path(temporary)), list[Path]()
        for name in DATASETS:
            stage = store.path(load_source(name, data_dir, store))
            parts += split(stage, first, most)
            if name == "cifar10":
                shutil.copyfile(find_checkpoint(data_dir, "resnet20*.th"), first / CHECKPOINT)
                np.savez(first / EXPECTED, **evidence(first / CHECKPOINT, stage, "cpu"))  # type: ignore[arg-type]
    (first / ROWS).write_text(json.dumps({name: rows(f"paper_{name}") for name in DATASETS}, indent=1))
    for package in PACKAGES:
        carry_package(package, first / "site")
    number = 1
    for part in parts[1:]:
        if part.stat().st_size > SMALL_SHARE * most:
            number += 1
            (target / str(number)).mkdir()
        if number > 1:
            part.rename(target / str(number) / part.name)
    return sorted(target.iterdir(), key=lambda folder: int(folder.name))


def rows(space: str) -> dict[str, dict[str, str | float]]:
    """The configurations of a space by their names."""
    from study.space.load import load_space  # needs pydantic and PyYAML, as a study does

    return {one.name: {"method": one.method, **one.parameters} for one in load_space(space, {})}


def carry_package(name: str, site: Path) -> None:
    found = find_spec(name)
    assert found
    assert found.origin
    shutil.copytree(Path(found.origin).parent, site / name, ignore=shutil.ignore_patterns("__pycache__"))
