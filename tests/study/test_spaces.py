"""Spaces and workloads: every shipped one passes the same tests; every error is said."""

from pathlib import Path

import pytest
import yaml

from kdq.errors import UserError
from kdq.methods import METHODS, MethodConfig
from kdq.teachers import parse_spec
from study import spaces, workloads
from study.plan import Plan
from study.spaces import load_space
from study.trial import TEACHER
from study.workloads import load_workload

SPACES = sorted(path.stem for path in spaces.FOLDER.glob("*.yaml"))
WORKLOADS = sorted(path.stem for path in workloads.FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("name", SPACES)
def test_every_shipped_space(name: str) -> None:
    space = load_space(name, {})
    configurations = space.configurations()
    assert configurations
    assert len({c.identity for c in configurations}) == len(configurations)
    assert space.description
    for configuration in configurations:
        if configuration.method != TEACHER:
            # The identity is complete: read back it is the same configuration.
            parsed = MethodConfig.parse({"method": configuration.method, **configuration.parameters})
            assert dict(parsed.params) == dict(configuration.parameters)
            assert set(parsed.params) == set(METHODS[configuration.method].params)


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_shipped_workload(name: str) -> None:
    workload = load_workload(name, {})
    assert workload.description
    if ":" in workload.teacher:
        parse_spec(workload.teacher)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("workload", WORKLOADS)
def test_spaces_and_workloads_combine_freely(space: str, workload: str) -> None:
    plan = Plan(space, workload, load_space(space, {}), load_workload(workload, {}), (0, 1), None)
    assert plan.points == 2 * len(plan.configurations) * len(plan.widths)
    assert plan.students <= len(plan.runs)


def test_the_papers_grid_in_the_order_of_the_file() -> None:
    found = [(c.parameters["alpha"], c.parameters["beta"]) for c in load_space("dkd_grid", {}).configurations()]
    assert found == [(a, b) for a in (0.5, 1, 2) for b in (4, 8, 10)]
    assert load_space("dkd_grid", {}).bits == (2, 3, 4, 5, 6, 8)


def write(folder: Path, document: object) -> str:
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


def test_inactive_parameters_make_no_second_name(tmp_path: Path) -> None:
    document = {
        "description": "x",
        "params": {"method": {"grid": ["ce", "dkd"]}, "beta": {"grid": [4, 8]}, "temperature": {"grid": [1, 4.0]}},
    }
    configurations = load_space(write(tmp_path, document), {}).configurations()
    assert [c.method for c in configurations] == ["ce", "dkd", "dkd", "dkd", "dkd"]


def test_a_name_shows_what_tells_two_trials_apart(tmp_path: Path) -> None:
    params = {"method": "dml", "temperature": 2, "handover": {"grid": [0, 0.5]}}
    configurations = load_space(write(tmp_path, {"description": "x", "params": params}), {}).configurations()
    assert [c.name for c in configurations] == ["dml alpha=1 temperature=2", "dml alpha=1 temperature=2 handover=0.5"]


def test_whole_and_broken_numbers_are_the_same_value(tmp_path: Path) -> None:
    document = {"description": "x", "params": {"method": "dkd", "alpha": {"grid": [1, 1.0]}}}
    assert len(load_space(write(tmp_path, document), {}).configurations()) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": [9]}, "bits = 9: must be 1 to 8, or 32"),
        ({"bits": []}, "bits: at least one width"),
        ({"bits": ["2"]}, r"bits\.0 = '2'"),
        ({"params": {}}, "params.method: is required"),
        ({"params": {"method": "dkdd"}}, "params.method: unknown method 'dkdd': did you mean 'dkd'"),
        ({"params": {"method": "dkd", "alhpa": 1}}, "params.alhpa: unknown parameter 'alhpa': did you mean 'alpha'"),
        ({"params": {"method": "dkd", "alpha": -1}}, r"params\.alpha = -1"),
        ({"params": {"method": "dkd", "alpha": {"grid": []}}}, "grid is empty"),
        ({"params": {"method": "dkd", "alpha": {"gird": [1]}}}, "unknown key 'gird': did you mean 'grid'"),
        (
            {"params": {"method": "dkd", "alpha": [1, 2]}},
            r"params\.alpha = \[1, 2\]: must be a name, a number or a grid",
        ),
        ({"params": {"method": "dkd", "alpha": True}}, "params.alpha = True"),
        ({"params": {"method": "dkd", "alpha": float("nan")}}, "alpha"),
        ({"serach": "grid"}, "unknown key 'serach'"),
    ],
)
def test_errors_of_a_space(tmp_path: Path, change: dict[str, object], message: str) -> None:
    document = {"description": "x", "params": {"method": "dkd"}, **change}
    with pytest.raises(UserError, match=message) as error:
        load_space(write(tmp_path, document), {})
    assert str(tmp_path / "space.yaml") in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train.lr": -1}, "lr = -1"),
        ({"train.lrr": 1}, "train.lrr: unknown key 'lrr': did you mean 'lr'"),
        ({"train.augment.crop_padding": -4}, "crop_padding = -4"),
        ({"dataset": "cifar11"}, "unknown data set 'cifar11': did you mean 'cifar1"),
        ({"student": "resnet19"}, "unknown architecture 'resnet19'"),
        ({"train_images": 0}, "train_images = 0: must be at least 1"),
        ({"dataset.name": "x"}, "'dataset' is a single value"),
        ({"teacher_normalization": "cifar"}, "unknown teacher_normalization 'cifar'"),
    ],
)
def test_errors_of_a_workload(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_workload("digits", overrides)


def test_overrides_reach_their_place() -> None:
    workload = load_workload("digits", {"train.epochs": 3, "train.augment.flip": True, "student": "resnet14"})
    assert (workload.train.epochs, workload.train.augment.flip, workload.student) == (3, True, "resnet14")
    assert workload.train.augment.crop_padding == 1
    space = load_space("dkd_grid", {"bits": (2,), "alpha": 1})
    assert len(space.configurations()) == 3
