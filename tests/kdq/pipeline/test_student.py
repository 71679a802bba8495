"""Students as stages: found, gone on from, or trained; of two that teach each other the better one is kept."""

import dataclasses
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from kdq.data.augment import AugmentConfig
from kdq.data.dataset import Dataset
from kdq.distill.features import FeatureLayers
from kdq.distill.methods import METHODS, MethodConfig
from kdq.distill.peers import peer_seed
from kdq.distill.recipe import TrainConfig
from kdq.distill.teacher_logits import ForwardTeacher
from kdq.distill.trainer import Trainer
from kdq.models.classifier import Classifier, Normalization, build
from kdq.pipeline.student import Epoch, StudentSpec, distill, forget, load_student
from kdq.store.folder_store import StageStore

NORMALIZATION = Normalization(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
TRAIN = TrainConfig(epochs=3, batch_size=20, lr=0.05, ema=0.5, augment=AugmentConfig(crop_padding=1))


def small_dataset() -> Dataset:
    random = torch.Generator().manual_seed(0)

    def split(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(count) % 4
        images = torch.randint(0, 100, (count, 3, 8, 8), generator=random) + 50 * labels[:, None, None, None]
        return images.to(torch.uint8), labels

    return Dataset("noise", tuple("abcd"), NORMALIZATION, *split(40), *split(20), *split(20), "0" * 64)


DATA = small_dataset()


def classifier(seed: int, arch: str = "resnet8") -> Classifier:
    return build(arch, classes=4, normalization=NORMALIZATION, seed=seed)


def same(a: Classifier, b: Classifier) -> bool:
    return all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())


def spec(name: str, **changes: object) -> StudentSpec:
    teacher = "t" if METHODS[name].needs_teacher else None
    config = MethodConfig.parse({"method": name})
    return dataclasses.replace(StudentSpec("0" * 64, teacher, "resnet8", config, TRAIN, 0), **changes)  # type: ignore[arg-type]


def trained(store: StageStore, wanted: StudentSpec, stop: int = 99) -> tuple[Path, list[Epoch]]:
    """The student's folder, and its epochs; KeyboardInterrupt comes when epoch `stop` is reported."""
    peer = (lambda: classifier(5)) if wanted.peer_init else None
    rows = []
    with closing(distill(store, wanted, lambda: DATA, lambda: ForwardTeacher(classifier(9)), peer)) as epochs:
        for epoch in epochs:
            rows.append(epoch)
            if epoch.number == stop:
                raise KeyboardInterrupt
    return store.path(wanted.stage()), rows


@pytest.mark.parametrize("method", sorted(METHODS))
def test_an_interrupted_student_goes_on_to_the_same_bits(method: str, tmp_path: Path) -> None:
    straight, broken = StageStore(tmp_path / "a"), StageStore(tmp_path / "b")
    expected, rows = trained(straight, spec(method))
    with pytest.raises(KeyboardInterrupt):
        trained(broken, spec(method), stop=2)
    folder, again = trained(broken, spec(method))
    assert same(load_student(folder, spec(method), DATA), load_student(expected, spec(method), DATA))
    assert [row.metrics["val_top1"] for row in again] == [row.metrics["val_top1"] for row in rows]
    assert [row.number for row in again] == [1, 2, 3]
    assert [path.name for path in (tmp_path / "b" / "student").glob("[0-9a-f]*/")] == [spec(method).stage().id]


def test_a_kill_between_two_checkpoints_leaves_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = StageStore(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(StageStore, "remove", lambda self, stage: None)  # it was killed before it came to this
        with pytest.raises(KeyboardInterrupt):
            trained(store, spec("ce"), stop=2)
    assert [bool(store.find(spec("ce").stage(epoch))) for epoch in (1, 2)] == [True, True]
    trained(store, spec("ce"))
    assert [path.name for path in (tmp_path / "student").glob("[0-9a-f]*/")] == [spec("ce").stage().id]


def test_a_student_that_nobody_trains_on_is_forgotten_but_not_one_in_training(tmp_path: Path) -> None:
    store, wanted = StageStore(tmp_path), spec("ce")

    with closing(distill(store, wanted, lambda: DATA, lambda: None)) as epochs:
        for epoch in epochs:
            assert not forget(store, wanted)  # this very process is training it, under another handle of the lock
            if epoch.number == 2:
                break
    assert store.find(wanted.stage(2))
    assert forget(store, wanted)
    assert not list((tmp_path / "student").glob("[0-9a-f]*/"))


CONSTANT = dataclasses.replace(TRAIN, schedule="step", milestones=(), warmup_epochs=1)
PLAIN = [
    ("ce", {}),
    ("vkd", {}),
    ("mixup", {}),
    ("dkd", {"warmup": 0}),
    ("dml", {}),
    ("dist", {}),
    ("wttm", {}),
    ("attention", {}),
]


@pytest.mark.parametrize(("method", "params"), PLAIN)
def test_a_longer_training_goes_on_from_a_finished_student_to_the_same_bits(
    method: str, params: dict[str, float], tmp_path: Path
) -> None:
    config = MethodConfig.parse({"method": method, **params})
    short, long = (spec(method, method=config, train=dataclasses.replace(CONSTANT, epochs=n)) for n in (2, 4))
    extended, straight = StageStore(tmp_path / "a"), StageStore(tmp_path / "b")
    first, _ = trained(extended, short)
    assert {stage.name for stage in (tmp_path / "a" / "student").glob("[0-9a-f]*/")} == {
        short.stage().id,
        short.stage(2).id,
    }
    folder, rows = trained(extended, long)
    assert json.loads((folder / "history.json").read_text())[:2] == json.loads((first / "history.json").read_text())
    assert [row.number for row in rows] == [1, 2, 3, 4]
    expected, _ = trained(straight, long)
    assert same(load_student(folder, long, DATA), load_student(expected, long, DATA))


def test_epochs_are_shared_as_far_as_the_learning_rate_is_the_same() -> None:
    def stage(epoch: int | None, **changes: Any) -> str:
        return spec("ce", train=dataclasses.replace(CONSTANT, **changes)).stage(epoch).id

    ten, twenty = {"epochs": 10, "milestones": (0.5, 0.75)}, {"epochs": 20, "milestones": (0.25, 0.6)}
    assert [epoch for epoch in range(1, 11) if stage(epoch, **ten) == stage(epoch, **twenty)] == list(range(1, 8))
    assert stage(10, **ten) != stage(None, **ten)
    thirty = {"epochs": 30, "milestones": (0.1,)}
    assert stage(5, **thirty) == stage(5, epochs=60, milestones=(0.05,))
    assert stage(5, **ten) != stage(5, **(ten | {"lr": 0.1}))
    for schedule in ("cosine", "one_cycle"):
        assert stage(1, epochs=10, schedule=schedule) != stage(1, epochs=20, schedule=schedule)


@pytest.mark.parametrize(("method", "params"), [("dkd", {}), ("dml", {"handover": 1})])
def test_a_loss_that_depends_on_the_length_of_the_training_shares_nothing(
    method: str, params: dict[str, float], tmp_path: Path
) -> None:
    config = MethodConfig.parse({"method": method, **params})
    short, long = (spec(method, method=config, train=dataclasses.replace(CONSTANT, epochs=n)) for n in (2, 3))
    store = StageStore(tmp_path)
    trained(store, short)
    assert short.stage(1) != long.stage(1)
    assert [path.name for path in (tmp_path / "student").glob("[0-9a-f]*/")] == [short.stage().id]
    straight = StageStore(tmp_path / "b")
    one, other = (load_student(trained(s, long)[0], long, DATA) for s in (store, straight))
    assert same(one, other)


@pytest.mark.parametrize("peer_init", [None, "w"])
def test_the_better_of_two_students_is_kept(peer_init: str | None, tmp_path: Path) -> None:
    wanted = spec("dml", peer_init=peer_init)
    folder, _ = trained(StageStore(tmp_path), wanted)
    peer = classifier(5 if peer_init else peer_seed(0))
    by_hand = Trainer(TRAIN, wanted.method, classifier(0), None, DATA, stream_seed=0, peer=peer)
    while by_hand.epoch < TRAIN.epochs:
        by_hand.run_epoch()
    assert by_hand.best in by_hand.averages
    assert same(load_student(folder, wanted, DATA), by_hand.best)


def test_everything_that_determines_a_student_is_in_its_id() -> None:
    plain = spec("dml")
    others = [
        spec("dml", peer_init="w"),
        spec("dml", seed=1),
        spec("dml", train=dataclasses.replace(TRAIN, ema=0.0)),
        spec("dml", train=dataclasses.replace(TRAIN, optimizer="adamw")),
        spec("dml", method=MethodConfig.parse({"method": "dml", "handover": 1})),
    ]
    assert len({wanted.stage().id for wanted in [plain, *others]}) == 6
    named = [FeatureLayers(("layer1",), (name,)) for name in ("layer1", "layer2")]
    assert len({spec("attention", layers=layers).stage().id for layers in (None, *named)}) == 3
    assert spec("dml").stage().id == plain.stage().id
