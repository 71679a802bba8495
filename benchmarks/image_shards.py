"""Images a second, and memory, of a folder of photographs: decoded once into a mapped file, or in every epoch.

    python -m benchmarks.image_shards --images 200000

Made-up JPEG files of 64 x 64 pixels in 10 class folders. Ours: all files are read, checked and decoded once into a
`data` stage; then an epoch of augmented views (random crop after 4 pixels of padding, mirrored) is read from the mapped
file. The peer: an epoch of torchvision's ImageFolder with the same augmentation in a DataLoader with a worker a core.
Each in a process of its own, in turn. processor: images for a second of processor time of all its processes, on which
other load on the machine has little influence; memory: the largest sum over its processes of their share of anonymous
and of shared memory; mapped: that of mapped files, which the system takes back when it needs the memory.
"""

import argparse
import os
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from benchmarks.report import circumstances, publish
from kdq.data.augment import AugmentConfig, Views
from kdq.data.dataset import open_dataset
from kdq.data.sources import load_source
from kdq.data.spec import DataSpec
from kdq.store.folder_store import StageStore

SIZE, CLASSES, PADDING, BATCH = 64, 10, 4, 128
SEED = 0
EVERY = 0.2  # seconds between two looks at the memory
MB = 1_000_000

Job = Callable[[Path, Path], int]
"""Function of the folders of images and of stages that returns the number of images that it went through."""


def make_images(folder: Path, count: int) -> None:
    """Write `count` JPEG files of smooth random colours to class folders, on all cores."""
    for label in range(CLASSES):
        (folder / str(label)).mkdir(parents=True)
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        parts = np.array_split(np.arange(count), 64)
        list(pool.map(_make, [folder] * len(parts), [part.tolist() for part in parts]))


def _make(folder: Path, numbers: Sequence[int]) -> None:
    for number in numbers:
        small = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        image.save(folder / str(number % CLASSES) / f"{number}.jpg", quality=90)


def decode(images: Path, stages: Path) -> int:
    spec = DataSpec(f"folder:{images}", image_size=SIZE)
    load_source(spec, None, StageStore(stages))
    return sum(1 for _ in images.glob("*/*.jpg"))


def views(images: Path, stages: Path) -> int:
    (stage,) = (stages / "data").glob("*/")
    data = open_dataset(stage, train_images=None, val_images=None)
    config = AugmentConfig(crop_padding=PADDING, flip=True)
    source = Views(data.train_images, data.train_labels, config, stream_seed=SEED, fill=data.normalization.mean)
    return sum(len(view.images) for view in source.epoch(0, BATCH))


def loader(images: Path, stages: Path) -> int:
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    augment = [transforms.RandomCrop(SIZE, PADDING), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    dataset = ImageFolder(str(images), transforms.Compose(augment))
    batches: DataLoader[tuple[torch.Tensor, torch.Tensor]] = DataLoader(
        dataset, BATCH, shuffle=True, num_workers=os.cpu_count() or 1
    )
    return sum(len(batch) for batch, _ in batches)


def timed(job: Job, images: Path, stages: Path) -> tuple[int, float, float]:
    """Return the images of a job, its seconds, and those of processor time, with its workers'."""
    started, used = time.perf_counter(), _processor_seconds()
    count = job(images, stages)
    return count, time.perf_counter() - started, _processor_seconds() - used


def _processor_seconds() -> float:
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


JOBS: dict[str, Job] = {"decoded once": decode, "views of an epoch": views, "torchvision DataLoader": loader}


def measure(job: Job, images: Path, stages: Path) -> dict[str, object]:
    """Run a job in a process of its own; return its images per second and its memory in MB."""
    most = {"memory": 0.0, "mapped": 0.0}
    done = threading.Event()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        child = pool.submit(_id).result()
        watch = threading.Thread(target=_watch, args=(child, most, done))
        watch.start()
        count, seconds, processor = pool.submit(timed, job, images, stages).result()
        done.set()
        watch.join()
    rates: dict[str, object] = {"images": count, "images/s": count / seconds, "processor": count / processor}
    return rates | {f"{kind} MB": value for kind, value in most.items()}


def _id() -> int:
    return int(psutil.Process().pid)


def _watch(process: int, most: dict[str, float], done: threading.Event) -> None:
    while not done.wait(EVERY):
        found = {"memory": 0.0, "mapped": 0.0}
        for each in (psutil.Process(process), *psutil.Process(process).children(recursive=True)):
            fields = _shares(each.pid)
            found["memory"] += (fields.get("Pss_Anon", 0) + fields.get("Pss_Shmem", 0)) / MB
            found["mapped"] += fields.get("Pss_File", 0) / MB
        most.update({name: max(most[name], value) for name, value in found.items()})


def _shares(process: int) -> dict[str, int]:
    """Return the bytes of a process by kind, shared ones divided among those that share them; none if it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.image_shards",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--images", type=int, default=200_000, help="files that are made (default: 200000)")
    parser.add_argument("--folder", type=Path, help="keep the files here, and use those of an earlier run")
    options = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in a study; in the processes, which are started after this
    head = {"size": f"{SIZE}x{SIZE}", **circumstances(torch.get_num_threads())}
    with tempfile.TemporaryDirectory() as name:
        images, stages = options.folder or Path(name) / "images", Path(name) / "stages"
        if not images.exists():
            make_images(images, options.images)
        rows = [{"way": way, **measure(job, images, stages)} for way, job in JOBS.items()]
    publish("image_shards", head, rows)


if __name__ == "__main__":
    main()
