"""What tests of studies share, made once for all the processes of a test run."""

import shutil
from pathlib import Path

from mlflow import MlflowClient

from tests.study.inline_study import call, inline_main

TEACHER = ["--set", "teacher_train.epochs=3"]
"""The settings of the teacher in a prepared folder."""


def make_prepared(folder: Path) -> None:
    """Fill `mlruns` as the first study on the digits does before its trials: data, a teacher, an empty database."""
    one = ["--space", "dkd_grid", "--trials", "1", "--epochs", "1", "--bits", "8", "--set", "quantizer.method=rtn"]
    result = call(inline_main, folder, *one, *TEACHER)
    assert result.returncode == 0, result.stderr
    root = folder / "mlruns"
    for stage in (root / "stages").glob("*/*/stage.json"):
        kind, text = stage.parent.parent.name, stage.read_text()
        if kind not in ("data", "accuracy") and not (kind == "student" and '"teacher": null' in text):
            shutil.rmtree(stage.parent)
    for path in root.iterdir():
        if path.name != "stages":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    MlflowClient(tracking_uri=f"sqlite:///{root}/mlflow.db").search_experiments()
