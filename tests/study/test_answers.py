"""What a real study gives to its user: its answers in Python and in Optuna, its models in other programs."""

import json
import warnings
from pathlib import Path

import optuna
import pytest

import analysis
from analysis.__main__ import main
from analysis.study import Study
from kdq.errors import UserError
from study.results.tables import COLUMNS


@pytest.fixture(scope="module")
def uri(finished: tuple[Path, object]) -> str:
    return f"sqlite:///{finished[0]}/mlruns/mlflow.db"


@pytest.fixture(scope="module")
def study(uri: str) -> Study:
    return analysis.open("small", uri)


def test_tables_of_a_study(study: Study) -> None:
    points = study.points()
    assert tuple(points) == COLUMNS
    assert len(points) == 6
    assert sorted(points["bits"].unique()) == [2, 4, 32]
    trials = study.trials()
    assert trials["status"].tolist() == ["completed"] * 2
    assert trials["epochs"].tolist() == [2, 2]
    front = study.front()
    assert front["total_bits"].is_monotonic_increasing
    assert front["val_top1"].is_monotonic_increasing


def test_its_best_is_what_the_command_prints(study: Study, uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="max_bits = '2e6': must be a number"):
        study.best(max_bits="2e6")  # type: ignore[arg-type]
    found = study.best(max_bits=1e9)
    assert main(["best", "--study", "small", "--max-bits", "1e9", "--tracking-uri", uri]) == 0
    assert capsys.readouterr().out.strip() == str(found).strip()
    assert main(["best", "--study", "small", "--max-bits", "1e9", "--format", "json", "--tracking-uri", uri]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (found.best.bits, found.best.val_top1) == (document["bits"], document["val_top1"])
    assert found.best.command == document["command"]
    assert found.recommended
    assert found.recommended.total_bits == document["recommended"]["total_bits"]
    assert found.alike == len(document["cannot_be_told_from_best"])


def test_its_model_is_loaded(study: Study) -> None:
    choice = study.best(max_bits=1e9).best
    model = study.load(choice)
    assert model.arch == "resnet8"
    assert model.signature.class_names == tuple("0123456789")


@pytest.mark.parametrize("limits", [{}, {"max_bits": 1e6, "max_bytes": 1e6}])
def test_one_budget_at_a_time(study: Study, limits: dict[str, float]) -> None:
    with pytest.raises(UserError, match="exactly one of"):
        study.best(**limits)


def test_an_unknown_study_is_refused(uri: str) -> None:
    with pytest.raises(UserError, match="did you mean 'small'"):
        analysis.open("smal", uri)


def test_optuna_has_every_point(study: Study) -> None:
    found = study.as_optuna()
    assert found.study_name == "small"
    assert [direction.name for direction in found.directions] == ["MAXIMIZE", "MINIMIZE"]
    pairs = {tuple(trial.values) for trial in found.trials}
    assert pairs == {(row["val_top1"], row["total_bits"]) for _, row in study.points().iterrows()}
    assert all(set(trial.params) >= {"method", "alpha", "beta", "bits"} for trial in found.trials)
    on_front = {trial.values[1] for trial in found.best_trials}
    assert on_front == set(study.front()["total_bits"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna's plots are experimental
        assert len(optuna.visualization.plot_pareto_front(found).data) > 0
    assert [len(trial.values) for trial in study.as_optuna(bits=4).trials] == [1, 1]


def test_the_recommended_model_is_exported_and_checked(
    study: Study, uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "model.onnx"
    options = ["--study", "small", "--max-bits", "1e9", "--file", str(file), "--format", "json"]
    assert main(["export", *options, "--tracking-uri", uri]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    chosen = study.best(max_bits=1e9).recommended
    assert chosen
    assert (row["bits"], row["packed_bytes"]) == (chosen.bits, chosen.packed_bytes)
    assert row["exported_bytes"] == file.stat().st_size
    assert abs(row["packed_top1"] - row["exported_top1"]) <= 0.1
    card = (tmp_path / "model.onnx.md").read_text()
    assert "small" in card
    assert chosen.command
    assert chosen.command in card


def test_an_export_of_what_is_not_recommended_says_so(
    study: Study, uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    highest = study.points()["val_top1"].max()
    assert study.best(target_accuracy=highest).recommended is None
    options = [
        "--study",
        "small",
        "--target-accuracy",
        str(highest),
        "--to",
        "torch",
        "--file",
        str(tmp_path / "m.pt2"),
    ]
    assert main(["export", *options, "--tracking-uri", uri]) == 0
    assert "recommends none" in capsys.readouterr().out


def test_an_export_that_cannot_be_written_is_one_message(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--study", "small", "--max-bits", "1e9", "--file", str(tmp_path)]
    assert main(["export", *options, "--tracking-uri", uri]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_models_file_is_not_output(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--study", "small", "--max-bits", "1e9", "--output", str(tmp_path / "m.onnx")]
    assert main(["export", *options, "--tracking-uri", uri]) == 2
    assert "the model's is --file" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
