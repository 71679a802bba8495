"""Students as stages: trained once, gone on from the last epoch, told once."""

from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdq.data.dataset import Dataset
from kdq.distill.methods import MethodConfig
from kdq.distill.recipe import TrainConfig
from kdq.distill.trainer import Diverged
from kdq.models.classifier import Normalization
from kdq.pipeline.student import MODEL_FILE, StudentSpec, distill, load_student
from kdq.store.folder_store import StageStore


def make_data() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (48, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(48) % 3
    images[:, 0, 0] = (labels * 100).to(torch.uint8).unsqueeze(1)  # something to learn
    parts = (images[:32], labels[:32], images[32:40], labels[32:40], images[40:], labels[40:])
    return Dataset("made", ("a", "b", "c"), Normalization((0.5,), (0.3,)), *parts, fingerprint="made")


def make_spec(epochs: int = 4, lr: float = 0.05, seed: int = 0) -> StudentSpec:
    method = MethodConfig.parse({"method": "ce"})
    return StudentSpec("made", None, "resnet8", method, TrainConfig(epochs=epochs, batch_size=16, lr=lr), seed)


def run(store: StageStore, spec: StudentSpec, stop_after: int | None = None) -> tuple[Path | None, list[int]]:
    """Distill until epoch `stop_after` is reported. Returns the folder, None if it is not there, and the epochs."""
    reported: list[int] = []
    with closing(distill(store, spec, make_data, lambda: None)) as epochs:
        for epoch in epochs:
            reported.append(epoch.number)
            if epoch.number == stop_after:
                break
    return store.find(spec.stage()), reported


def weights(folder: Path) -> bytes:
    return (folder / MODEL_FILE).read_bytes()


@pytest.mark.parametrize("stop_after", [1, 2, 3, 4])
def test_a_student_that_was_stopped_goes_on_and_ends_in_the_same_bits(tmp_path: Path, stop_after: int) -> None:
    undisturbed, _ = run(StageStore(tmp_path / "a"), make_spec())
    store = StageStore(tmp_path / "b")
    nothing, _ = run(store, make_spec(), stop_after)
    assert nothing is None
    resumed, told = run(store, make_spec())
    assert told == [1, 2, 3, 4]
    assert undisturbed is not None
    assert resumed is not None
    assert weights(resumed) == weights(undisturbed)


def test_a_finished_student_is_neither_trained_nor_loaded_again(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    folder, _ = run(store, make_spec())

    def never() -> Dataset:
        raise AssertionError("the data were asked for")

    epochs = list(distill(store, make_spec(), never, lambda: None))
    assert [epoch.number for epoch in epochs] == [1, 2, 3, 4]
    assert all(epoch.model is None for epoch in epochs)
    assert store.find(make_spec().stage()) == folder


def test_a_finished_student_keeps_no_checkpoint(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    folder, _ = run(store, make_spec())
    assert list((tmp_path / "student").iterdir()) == [folder]


def test_a_live_student_keeps_its_last_checkpoint_only(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    run(store, make_spec(), stop_after=3)
    assert [epoch for epoch in (1, 2, 3, 4) if store.find(make_spec().stage(epoch))] == [3]


def test_the_loaded_student_is_the_trained_one(tmp_path: Path) -> None:
    folder, _ = run(StageStore(tmp_path), make_spec())
    assert folder is not None
    student = load_student(folder, make_spec(), make_data())
    saved = load_file(folder / MODEL_FILE)
    assert not student.training
    assert all(torch.equal(saved[key], value) for key, value in student.net.state_dict().items())


def test_everything_that_matters_is_in_the_identity() -> None:
    ids = {make_spec().stage().id, make_spec().stage(2).id, make_spec(3).stage().id, make_spec(seed=1).stage().id}
    ids |= {make_spec(lr=0.1).stage().id}
    assert len(ids) == 5
    assert make_spec().stage().id == make_spec().stage(4).id


def test_one_that_diverges_leaves_no_finished_stage(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    with pytest.raises(Diverged):
        run(store, make_spec(lr=1e30))
    assert store.find(make_spec(lr=1e30).stage()) is None
