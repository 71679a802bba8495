"""The teacher-logits cache: a teacher's logits for a view are computed once and shared by all trials that see it.

A view is a function of (stream seed, epoch, image), so the logits of an epoch are stored as stages: parts of PART
images, float16 [n, classes], each row less its largest value. Every loss here is a function of
softmax(logits / T), which is invariant to a shift of the row, and float16 is most precise near 0, where the
probable classes then lie. Probabilities change by less than 0.0005 (`benchmarks/teacher_logits.py` measures the
effect).

Concurrent processes share the work: each goes through the parts of an epoch in its own random order and waits only
for a part that another is computing. Computing a part takes no lock but that part's, so there is no deadlock, and
a killed process leaves only its lock, which the operating system releases.

The cache is bounded on disk. Parts unused for a day are evicted, least recently used first; an epoch that still
does not fit is computed by every process that needs it and not stored. (Evicting parts in use would be worse:
trials go through the epochs in the same order, and each would evict what the next is about to read.) Stored or
not, the logits are the same to the last bit: no result depends on the content of the disk.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from random import SystemRandom

import numpy as np
import torch
from torch import Tensor

from kdq.data.augment import View, Views
from kdq.data.dataset import Dataset
from kdq.distill.features import Features, with_features
from kdq.distill.recipe import autocast
from kdq.models.classifier import Classifier
from kdq.models.float32 import exact_float32
from kdq.models.graph import fold
from kdq.models.resnets import ARCHITECTURES
from kdq.store.folder_store import StageStore
from kdq.store.stage import Stage

TeacherLogits = Callable[[View], Tensor]
"""Returns the teacher's logits for a view: float [B, classes], without gradient, in the order of the view."""


class ForwardTeacher:
    """A `TeacherLogits` that runs the teacher on every view. `teacher` is frozen and left in evaluation mode.

    The logits are those of `teacher` up to rounding: its batch norms are folded where possible. precision: of its
    forward pass.
    """

    def __init__(self, teacher: Classifier, precision: str = "float32") -> None:
        self.teacher = teacher.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        folded = fold(teacher) if teacher.arch in ARCHITECTURES else teacher
        self._folded = folded.to(memory_format=torch.channels_last)
        self.precision = precision

    @torch.inference_mode()
    @exact_float32()
    def __call__(self, view: View) -> Tensor:
        with autocast(view.images.device, self.precision):
            logits_teacher: Tensor = self._folded(view.images)
        return logits_teacher

    @torch.no_grad()
    @exact_float32()
    def with_features(self, view: View, layers: Sequence[str]) -> tuple[Tensor, Features]:
        """Return the logits, and the outputs of the named layers. The network runs unfolded, so that they exist."""
        with autocast(view.images.device, self.precision):
            return with_features(self.teacher, layers, view.images)


CACHE_VERSION = 2
KIND = "logits"
FILE = "logits.npy"
PART = 4096  # images: 5 s of a ResNet-56 on one core, and files of 80 KB
BATCH = 128  # images per forward pass: on a CPU, their activations should stay in its cache
BATCH_ON_DEVICE = 1024  # on a GPU, which a smaller batch does not keep busy
OVERHEAD = 1024  # bytes of a part beyond its logits
BOUND = 4 << 30  # bytes: 150 trainings of 30 epochs on CIFAR-10, 15 on CIFAR-100
UNUSED = 24 * 3600.0  # seconds after which an unused part may be evicted
LOWEST = torch.finfo(torch.float16).min


class TeacherLogitsCache:
    """A `TeacherLogits` that reads logits from the store, and computes and stores those that are missing.

    store: holds the parts; teacher: opens the teacher, called only if logits are missing; teacher_id: id of the
    teacher's stage; views: the views to be requested, of the training images of `data`; precision: of the teacher's
    forward pass; bound: bytes that all caches in the store may take, exceeded by at most one epoch per writing
    process.
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
            "augment": views.config.identity(),
            "mixup_alpha": views.mixup_alpha,
            "stream_seed": views.stream_seed,
        }
        self._epoch: int | None = None
        self._logits = torch.empty(0)

    def __call__(self, view: View) -> Tensor:
        """Return the teacher's logits for a view, each row less a constant: float32 [B, classes]."""
        if view.epoch != self._epoch:
            self._logits, self._epoch = self._whole(view.epoch), view.epoch
        return self._logits[view.index].float()

    def stage(self, epoch: int, start: int) -> Stage:
        """Return the stage of the part of an epoch that starts at the image `start`."""
        return Stage(KIND, CACHE_VERSION, {**self._inputs, "epoch": epoch, "start": start, "images": PART})

    @cached_property
    def _teacher(self) -> TeacherLogits:
        return self._open()

    def _whole(self, epoch: int) -> Tensor:
        """Return the logits of an epoch by image, float16 [N, classes] on the views' device."""
        starts = range(0, len(self.views), PART)
        missing = sum(self.store.find(self.stage(epoch, start)) is None for start in starts)
        keep = missing == 0 or self._make_room(missing)
        parts = {start: self._part(epoch, start, keep) for start in SystemRandom().sample(starts, len(starts))}
        return torch.cat([parts[start] for start in starts]).to(self.views.device)

    def _part(self, epoch: int, start: int, keep: bool) -> Tensor:
        stage = self.stage(epoch, start)
        folder = self.store.make(stage, partial(self._write, epoch, start)) if keep else self.store.find(stage)
        if folder is not None:
            with suppress(FileNotFoundError):  # another process has just evicted it
                os.utime(folder)
                return torch.from_numpy(np.load(folder / FILE, mmap_mode="c"))
        return self._compute(epoch, start)

    def _write(self, epoch: int, start: int, folder: Path) -> None:
        np.save(folder / FILE, self._compute(epoch, start).numpy())

    @torch.inference_mode()
    def _compute(self, epoch: int, start: int) -> Tensor:
        """Return the teacher's logits for the views of a part: float16 [n, classes] on the CPU."""
        draws = self.views.draw(epoch)
        device = self.views.device
        index = torch.arange(start, min(start + PART, len(self.views)), device=device)
        batches = torch.split(index, BATCH if device.type == "cpu" else BATCH_ON_DEVICE)
        return torch.cat([compress(self._teacher(self.views.view(epoch, b, draws))) for b in batches]).cpu()

    def _make_room(self, parts: int) -> bool:
        """Evict long unused parts if necessary; return whether `parts` more then fit under the bound."""
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
    """Return logits [B, classes] of any magnitude as float16, each row less its largest value.

    softmax is unchanged up to rounding; a class 65,504 below the best is as impossible as one still lower.
    """
    logits = logits.float()
    return (logits - logits.amax(1, keepdim=True)).clamp(min=LOWEST).half()


def _kept(root: Path) -> list[tuple[float, int, Path]]:
    """Return time of last use, bytes and folder of every stored part, least recently used first.

    Parts left half written or half removed by killed processes are included.
    """
    kept = []
    for folder in root.glob("*/"):
        with suppress(FileNotFoundError):  # removed by another process meanwhile
            size = sum(file.stat().st_size for file in folder.rglob("*"))
            kept.append((folder.stat().st_mtime, size, folder))
    return sorted(kept)
