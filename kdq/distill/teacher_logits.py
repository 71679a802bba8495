"""The teacher bank: what a teacher says about a view is computed once and shared by all trials that see it.

A view is a function of (stream seed, epoch, image), so the logits of an epoch are a stage like any other. They
are kept in parts of PART images, float16 [n, classes], each row less its largest value: every loss here is a
function of softmax(logits / T), which a shift of the row leaves as it is, and float16 is finest near 0, where
the probable classes are then. Probabilities change by less than 0.0005 (the benchmark `benchmarks/teacher_logits.py`
measures what that does).

Nobody waits idly: processes that want the same epoch at once go through its parts each in an order of its own,
so they share the work and meet only at a part that one of them has in hand. A part takes no lock beside its own,
so there is no deadlock, and a process that is killed leaves nothing but its lock, which is free at once.

The bank is bounded on the disk. Parts that no process has used for a day make room, the longest unused first;
an epoch that still does not fit is computed by everyone who wants it and kept by nobody. (To remove parts in
use would be worse: trials go through the epochs in the same order, and each would remove what the next one is
about to ask for.) Kept or not, the logits are the same to the last bit: no result depends on what the disk holds.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from random import SystemRandom

import numpy as np
import torch
from torch import Tensor

from kdq.data.augment import View, Views
from kdq.data.dataset import Dataset
from kdq.distill.recipe import autocast
from kdq.models.classifier import Classifier
from kdq.models.graph import fold
from kdq.models.resnets import ARCHITECTURES
from kdq.store.folder_store import StageStore
from kdq.store.stage import Stage

TeacherLogits = Callable[[View], Tensor]
"""What a teacher says about a view: float [B, classes], without gradient, in the order of the view."""


def forward_teacher(teacher: Classifier, precision: str = "float32") -> TeacherLogits:
    """A teacher that looks at every view itself. It is frozen and put into evaluation mode for good.

    What it says is that of `teacher` up to rounding: where batch norms can be folded away, they are.
    """
    teacher.eval().requires_grad_(False)
    frozen = (fold(teacher) if teacher.arch in ARCHITECTURES else teacher).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def answer(view: View) -> Tensor:
        with autocast(view.images.device, precision):
            logits_teacher: Tensor = frozen(view.images)
        return logits_teacher

    return answer


CACHE_VERSION = 2
KIND = "logits"
FILE = "logits.npy"
PART = 4096  # images: 5 s of a ResNet-56 on one core, and files of 80 KB
BATCH = 128  # at a time: on a CPU their activations should stay in its cache
OVERHEAD = 1024  # bytes of a part beside its logits
BOUND = 4 << 30  # bytes: 150 trainings of 30 epochs on CIFAR-10, 15 on CIFAR-100
UNUSED = 24 * 3600.0  # seconds after which a part may make room for others
LOWEST = torch.finfo(torch.float16).min


class TeacherLogitsCache:
    """A teacher that looks up what it, or another process, has said before: a `TeacherLogits`.

    store: where the parts are kept; teacher: opens the teacher, called only if something has to be computed;
    teacher_id: that of its stage; views: those that are asked about, of the training images of `data`; precision:
    what the teacher computes in; bound: bytes that all banks in the store may take, exceeded by at most an epoch
    for each process that writes.
    """

    def __init__(
        self,
        store: StageStore,
        teacher: Callable[[], TeacherLogits],
        teacher_id: str,
        data: Dataset,
        views: Views,
        *,
        precision: str = "float32",
        bound: int = BOUND,
    ) -> None:
        self.store, self.views, self.bound = store, views, bound
        self.classes = data.classes
        self._open = teacher
        self._inputs = {
            "teacher": teacher_id,
            "precision": precision,
            "data": data.fingerprint,
            "augment": asdict(views.config),
            "mixup_alpha": views.mixup_alpha,
            "stream_seed": views.stream_seed,
        }
        self._epoch: int | None = None
        self._logits = torch.empty(0)

    def __call__(self, view: View) -> Tensor:
        """What the teacher says about a view, less a number for each image: float32 [B, classes]."""
        if view.epoch != self._epoch:
            self._logits, self._epoch = self._whole(view.epoch), view.epoch
        return self._logits[view.index].float()

    def stage(self, epoch: int, start: int) -> Stage:
        """The part of an epoch that begins with the image `start`."""
        return Stage(KIND, CACHE_VERSION, {**self._inputs, "epoch": epoch, "start": start, "images": PART})

    @cached_property
    def _teacher(self) -> TeacherLogits:
        return self._open()

    def _whole(self, epoch: int) -> Tensor:
        """The logits of an epoch by image, float16 [N, classes] on the views' device."""
        starts = range(0, len(self.views), PART)
        missing = sum(self.store.find(self.stage(epoch, start)) is None for start in starts)
        keep = missing == 0 or self._make_room(missing)
        parts = {start: self._part(epoch, start, keep) for start in SystemRandom().sample(starts, len(starts))}
        return torch.cat([parts[start] for start in starts]).to(self.views.images.device)

    def _part(self, epoch: int, start: int, keep: bool) -> Tensor:
        stage = self.stage(epoch, start)
        folder = self.store.make(stage, partial(self._write, epoch, start)) if keep else self.store.find(stage)
        if folder is not None:
            with suppress(FileNotFoundError):  # unused for a day, and another process has just made room
                os.utime(folder)
                return torch.from_numpy(np.load(folder / FILE, mmap_mode="c"))
        return self._compute(epoch, start)

    def _write(self, epoch: int, start: int, folder: Path) -> None:
        np.save(folder / FILE, self._compute(epoch, start).numpy())

    @torch.inference_mode()
    def _compute(self, epoch: int, start: int) -> Tensor:
        """What the teacher says about the views of a part: float16 [n, classes] on the CPU."""
        draws = self.views.draw(epoch)
        index = torch.arange(start, min(start + PART, len(self.views)), device=self.views.images.device)
        batches = torch.split(index, BATCH)
        return torch.cat([compress(self._teacher(self.views.view(epoch, b, draws))) for b in batches]).cpu()

    def _make_room(self, parts: int) -> bool:
        """Whether so many more parts fit under the bound, once what is long unused is gone."""
        most = min(PART, len(self.views)) * self.classes * 2 + OVERHEAD
        kept = _kept(self.store.root / KIND)
        free = self.bound - sum(size for _, size, _ in kept) - parts * most
        for used, size, folder in kept:
            if free >= 0 or used > time.time() - UNUSED:
                break
            self.store.discard(folder)
            free += size
        return free >= 0


def compress(logits: Tensor) -> Tensor:
    """Logits [B, classes] of any size as float16, each row less its largest value.

    softmax is the same up to rounding; a class 65,504 below the best is as impossible as one still lower.
    """
    logits = logits.float()
    return (logits - logits.amax(1, keepdim=True)).clamp(min=LOWEST).half()


def _kept(root: Path) -> list[tuple[float, int, Path]]:
    """When it was last used, bytes and folder of every part in the bank, the longest unused first.

    What killed processes left half written or half removed is among them.
    """
    kept = []
    for folder in root.glob("*/"):
        with suppress(FileNotFoundError):  # another process is at work here
            size = sum(file.stat().st_size for file in folder.rglob("*"))
            kept.append((folder.stat().st_mtime, size, folder))
    return sorted(kept)
