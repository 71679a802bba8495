"""What a study takes on the disk stays under what is said of it before, at every moment."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from study.plan import estimate_disk
from study.plan.plan import Plan
from study.run import main
from study.space.load import load_space
from study.space.workload import load_workload

SPACE = """
description: many students, most of which are stopped; some train a peer beside
params:
  method: {choice: [dkd, dml]}
  alpha: {uniform: [0.5, 2]}
searcher: random
trials: 40
scheduler: {name: asha, reduction_factor: 4}
bits: [2]
"""
KINDS = {"students": "student", "its logits": "logits", "data": "data", "points": "point"}
"""Parts of the bound, by the stages that they are."""


def taken(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_a_study_of_many_trials_stays_under_its_bound(
    serially: Callable[..., None], tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("space.yaml").write_text(SPACE)
    plan = Plan("space", "digits", load_space("space.yaml", {}), load_workload("digits", tiny), (0,))
    bound = estimate_disk.bound(plan, slots=1, downloads=False)
    whole = sum(bound.values())
    bound["students"] += bound["teacher"] + bound["checkpoints"]
    bound["points"] = bound["points, as stages and in MLflow"] // 2
    peaks = dict.fromkeys(KINDS, 0)

    def look() -> None:
        for part, kind in KINDS.items():
            peaks[part] = max(peaks[part], taken(Path("mlruns/stages", kind)))
        assert taken(Path("mlruns")) <= whole

    serially(look, often=4)
    settings = [word for key, value in tiny.items() for word in ("--set", f"{key}={value}")]
    assert main(["--space", "space.yaml", "--name", "many", *settings]) == 0
    look()
    assert all(0 < peak <= bound[part] for part, peak in peaks.items()), (peaks, bound)
    # A student that was stopped has left nothing: there are as many as have points, and the teacher.
    points = list(Path("mlruns/stages/point").glob("*/stage.json"))
    students = list(Path("mlruns/stages/student").glob("*/stage.json"))
    assert 4 < len(points) // 2 < 36
    assert len(students) == len(points) // 2 + 1


def test_sizes_are_said_with_three_digits() -> None:
    assert [estimate_disk.size(n) for n in (1, 999, 23_456, 999_700, 4_180_000_000)] == [
        *("0.001 kB", "0.999 kB", "23.5 kB", "1 MB", "4.18 GB")
    ]
