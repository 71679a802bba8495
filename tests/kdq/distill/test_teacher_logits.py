"""The teacher-logits cache: computed once, shared exactly, bounded, and invisible in the results."""

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kdq.data.augment import AugmentConfig, View, Views
from kdq.data.dataset import Dataset
from kdq.distill import teacher_logits
from kdq.distill.losses import kd
from kdq.distill.methods import MethodConfig
from kdq.distill.recipe import TrainConfig
from kdq.distill.teacher_logits import FILE, KIND, ForwardTeacher, TeacherLogits, TeacherLogitsCache, compress
from kdq.distill.trainer import Trainer
from kdq.models.classifier import Classifier, Normalization, build
from kdq.store.folder_store import StageStore
from tests.patience import patient

AUGMENT = AugmentConfig(crop_padding=1, flip=True)
NORMALIZATION = Normalization((0.5,), (0.25,))
COUNT = 50


@pytest.fixture(autouse=True)
def _parts_of_20(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_logits, "PART", 20)
    monkeypatch.setattr(teacher_logits, "BATCH", 7)


def dataset(count: int = COUNT) -> Dataset:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 1, 8, 8), generator=random, dtype=torch.uint8)
    labels = torch.arange(count) % 4
    return Dataset("noise", tuple("abcd"), NORMALIZATION, *(images, labels) * 3, "0" * 64)


def model(seed: int = 1) -> Classifier:
    return build("resnet8", classes=4, normalization=NORMALIZATION, seed=seed).eval()


def views(data: Dataset, seed: int = 0, mixup_alpha: float = 0.0, augment: AugmentConfig = AUGMENT) -> Views:
    fill = data.normalization.mean
    return Views(data.train_images, data.train_labels, augment, stream_seed=seed, fill=fill, mixup_alpha=mixup_alpha)


class Counting:
    """A teacher that counts the images it is shown."""

    def __init__(self) -> None:
        self.answer = ForwardTeacher(model())
        self.images = 0

    def __call__(self, view: View) -> Tensor:
        self.images += len(view.images)
        return self.answer(view)


def cached(
    root: Path,
    teacher: TeacherLogits,
    data: Dataset | None = None,
    name: str = "t",
    bound: int = 1 << 20,
    **views_: object,
) -> TeacherLogitsCache:
    data = data or dataset()
    return TeacherLogitsCache(StageStore(root), lambda: teacher, name, data, views(data, **views_), bound=bound)  # type: ignore[arg-type]


def answers(of: TeacherLogitsCache, epoch: int = 0, batch_size: int = 16) -> Tensor:
    """All that it says about an epoch, by image."""
    said = torch.empty(len(of.views), of.classes)
    for view in of.views.epoch(epoch, batch_size):
        said[view.index] = of(view)
    return said


def kept(root: Path) -> list[Path]:
    return sorted((root / KIND).glob(f"*/{FILE}"))


def test_it_says_what_the_teacher_says_of_these_very_views(tmp_path: Path) -> None:
    """The reference is the teacher itself, on every view of two epochs, mixed and not."""
    direct = ForwardTeacher(model())
    for alpha in (0.0, 0.5):
        of = cached(tmp_path, ForwardTeacher(model()), mixup_alpha=alpha)
        for epoch in (0, 1):
            for view in of.views.epoch(epoch, 16):
                expected, got = direct(view), of(view)
                assert got.dtype == torch.float32
                torch.testing.assert_close(got.softmax(1), expected.softmax(1), atol=5e-4, rtol=0)
                torch.testing.assert_close(got, expected - expected.amax(1, keepdim=True), atol=1e-2, rtol=1e-3)


def test_it_is_computed_once_and_shared(tmp_path: Path) -> None:
    first, second = Counting(), Counting()
    said = answers(cached(tmp_path, first))
    assert first.images == COUNT
    assert torch.equal(answers(cached(tmp_path, second), batch_size=9), said)  # another batch size: the same views
    assert second.images == 0
    again = cached(tmp_path, second)
    answers(again, epoch=1)
    answers(again, epoch=0)
    assert second.images == COUNT
    assert len(kept(tmp_path)) == 6


def test_a_teacher_that_is_not_needed_is_not_opened(tmp_path: Path) -> None:
    answers(cached(tmp_path, ForwardTeacher(model())))

    def never() -> TeacherLogits:
        raise AssertionError

    data = dataset()
    answers(TeacherLogitsCache(StageStore(tmp_path), never, "t", data, views(data)))


OTHERS: dict[str, Callable[[Path, Counting], TeacherLogitsCache]] = {
    "teacher": lambda root, teacher: cached(root, teacher, name="u"),
    "data": lambda root, teacher: cached(root, teacher, data=dataclasses.replace(dataset(), fingerprint="1" * 64)),
    "augmentation": lambda root, teacher: cached(root, teacher, augment=AugmentConfig(crop_padding=2)),
    "stream seed": lambda root, teacher: cached(root, teacher, seed=1),
    "mixup": lambda root, teacher: cached(root, teacher, mixup_alpha=1.0),
    "mixup alpha": lambda root, teacher: cached(root, teacher, mixup_alpha=0.2),
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_views_are_not_shared(what: str, tmp_path: Path) -> None:
    answers(cached(tmp_path, Counting()))
    answers(cached(tmp_path, Counting(), mixup_alpha=0.5))
    teacher = Counting()
    answers(OTHERS[what](tmp_path, teacher))
    assert teacher.images == COUNT
    assert len(kept(tmp_path)) == 9


class TestTraining:
    METHODS = ({"method": "vkd"}, {"method": "dkd"}, {"method": "mixup"}, {"method": "dkd", "mixup_alpha": 0.3})

    @staticmethod
    def train(teacher: TeacherLogits, settings: dict[str, object]) -> tuple[list[float], dict[str, Tensor]]:
        config = TrainConfig(epochs=2, batch_size=16, lr=0.02, augment=AUGMENT)
        student = model(seed=2)
        trainer = Trainer(config, MethodConfig.parse(settings), student, teacher, dataset(), stream_seed=0)
        return [trainer.run_epoch()["train_loss"] for _ in range(2)], student.state_dict()

    @pytest.mark.parametrize("settings", METHODS, ids=str)
    def test_the_loss_is_that_without_the_cache_to_rounding(self, settings: dict[str, object], tmp_path: Path) -> None:
        alpha = MethodConfig.parse(settings).params["mixup_alpha"]
        without, _ = self.train(ForwardTeacher(model()), settings)
        with_cache, _ = self.train(cached(tmp_path, ForwardTeacher(model()), mixup_alpha=alpha), settings)
        assert with_cache == pytest.approx(without, rel=1e-3)

    def test_what_the_disk_holds_changes_no_bit(self, tmp_path: Path) -> None:
        """Computed and kept, found, and computed and not kept for want of room: the same weights."""
        settings: dict[str, object] = {"method": "dkd"}
        _, computed = self.train(cached(tmp_path, ForwardTeacher(model())), settings)
        _, found = self.train(cached(tmp_path, ForwardTeacher(model())), settings)
        _, unkept = self.train(cached(tmp_path / "full", ForwardTeacher(model()), bound=0), settings)
        assert kept(tmp_path / "full") == []
        for key in computed:
            assert torch.equal(computed[key], found[key])
            assert torch.equal(computed[key], unkept[key])


def size(root: Path) -> int:
    return sum(file.stat().st_size for file in (root / KIND).rglob("*") if file.is_file())


class TestBound:
    PARTS = 3
    EPOCH = PARTS * (20 * 4 * 2 + teacher_logits.OVERHEAD)

    def test_an_epoch_that_does_not_fit_is_not_kept_and_what_is_kept_stays(self, tmp_path: Path) -> None:
        bound = 2 * self.EPOCH
        answers_by_epoch = []
        teacher = Counting()
        of = cached(tmp_path, teacher, bound=bound)
        for epoch in range(6):
            answers_by_epoch.append(answers(of, epoch))
            assert size(tmp_path) <= bound
        assert teacher.images == 6 * COUNT
        stored = len(kept(tmp_path)) // self.PARTS
        assert 2 <= stored < 6
        teacher = Counting()
        again = cached(tmp_path, teacher, bound=bound)
        for epoch in range(6):
            assert torch.equal(answers(again, epoch), answers_by_epoch[epoch])
        assert teacher.images == (6 - stored) * COUNT
        assert size(tmp_path) <= bound

    def test_a_part_takes_no_more_than_is_reckoned(self, tmp_path: Path) -> None:
        answers(cached(tmp_path, Counting()))
        assert size(tmp_path) <= self.EPOCH

    def test_what_was_unused_for_a_day_makes_room_the_oldest_first(self, tmp_path: Path) -> None:
        of = cached(tmp_path, Counting(), name="old")
        for epoch in range(3):
            answers(of, epoch)
        folders = {epoch: [of.store.path(of.stage(epoch, start)) for start in (0, 20, 40)] for epoch in range(3)}
        for epoch, folder in ((e, f) for e in (0, 1) for f in folders[e]):
            os.utime(folder, (0, epoch))
        answers(cached(tmp_path, Counting(), bound=size(tmp_path) + self.EPOCH - 1))
        assert [folder.exists() for folder in folders[0]].count(False) == 1
        assert all(folder.exists() for folder in folders[1] + folders[2])
        answers(cached(tmp_path, Counting(), name="third", bound=self.EPOCH))
        assert all(folder.exists() for folder in folders[2])  # in use a moment ago
        assert not any(folder.exists() for folder in folders[0] + folders[1])
        assert list((tmp_path / KIND).glob(".*")) == []

    def test_a_use_makes_it_young_again(self, tmp_path: Path) -> None:
        of = cached(tmp_path, Counting())
        answers(of)
        folders = [of.store.path(of.stage(0, start)) for start in (0, 20, 40)]
        for folder in folders:
            os.utime(folder, (0, 0))
        answers(cached(tmp_path, Counting()))
        answers(cached(tmp_path, Counting(), name="other", bound=self.EPOCH))
        assert all(folder.exists() for folder in folders)

    def test_a_part_that_vanishes_is_computed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        said = answers(cached(tmp_path, Counting()))
        of = cached(tmp_path, teacher := Counting())
        find = of.store.find
        monkeypatch.setattr(of.store, "find", lambda stage: vanish(find(stage)))

        def vanish(folder: Path | None) -> Path | None:
            if folder is not None and (folder / FILE).exists():
                (folder / FILE).unlink()
            return folder

        assert torch.equal(answers(of), said)
        assert teacher.images == COUNT


def use(root: Path, counted: "multiprocessing.Queue[tuple[int, float]]") -> None:
    torch.set_num_threads(1)
    teacher_logits.PART, teacher_logits.BATCH = 20, 7
    teacher = Counting()
    of = cached(root, teacher)
    total = sum(answers(of, epoch).sum().item() for epoch in range(4))
    counted.put((teacher.images, total))


def test_processes_that_want_the_same_share_the_work(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    counted: multiprocessing.Queue[tuple[int, float]] = context.Queue()
    workers = [context.Process(target=use, args=(tmp_path, counted)) for _ in range(2)]
    for worker in workers:
        worker.start()
    results = [counted.get(timeout=patient(30)) for _ in workers]
    for worker in workers:
        worker.join()
    assert sum(images for images, _ in results) == 4 * COUNT
    assert len({total for _, total in results}) == 1


DYING = """
import sys, time
from pathlib import Path
from kdq.distill import teacher_logits
from tests.kdq.distill.test_teacher_logits import Counting, answers, cached
teacher_logits.BATCH = 7
class Slow(Counting):
    def __call__(self, view):
        if self.images:
            print("computing", flush=True)
            time.sleep(100)
        return super().__call__(view)
answers(cached(Path(sys.argv[1]), Slow()))
"""


def test_a_killed_process_leaves_nothing_that_is_found(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", DYING, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, text=True
    ) as dying:
        assert dying.stdout is not None
        assert dying.stdout.readline() == "computing\n"
        dying.send_signal(signal.SIGKILL)
    assert kept(tmp_path) == []
    answers(cached(tmp_path, teacher := Counting()))
    assert teacher.images == COUNT
    assert len(kept(tmp_path)) == 3


class TestCompress:
    @given(
        st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=5, max_size=5), min_size=1, max_size=4),
        st.sampled_from([1.0, 4.0]),
    )
    def test_probabilities_are_kept(self, rows: list[list[float]], temperature: float) -> None:
        logits = torch.tensor(rows)
        kept, exact = compress(logits).float() / temperature, logits.double() / temperature
        torch.testing.assert_close(kept.double().softmax(1), exact.softmax(1), atol=5e-4, rtol=0)

    def test_logits_of_any_size_stay_finite(self) -> None:
        logits = torch.tensor([[1e30, 0.0, -1e30], [1e4, 1e4 - 1, -1e4]])
        kept = compress(logits)
        assert kept.isfinite().all()
        torch.testing.assert_close(kept.float().softmax(1), logits.softmax(1), atol=5e-4, rtol=0)
        assert kd(torch.zeros(2, 3), kept, 1.0).isfinite().all()

    def test_nan_is_not_hidden(self) -> None:
        assert compress(torch.tensor([[float("nan"), 1.0]])).isnan().any()
