"""The command `export`: a packed model in another format, checked on a data set's test images or on random ones."""

import shlex
from argparse import Namespace
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from kdq.data.sources import DATASETS
from kdq.errors import UserError, unknown
from kdq.export.model import Exported, export


def run(options: Namespace) -> int:
    """Export the model and print what was written; return the exit status."""
    images, labels, name = _test_images(options.dataset, options.data_dir)
    try:
        exported = export(
            options.model,
            options.to,
            options.output,
            images,
            labels,
            images_name=name,
            size=options.image_size,
            code=options.code,
            command=f"python -m kdq {shlex.join(options.arguments)}",
        )
    except OSError as error:
        raise UserError(f"{options.output}: cannot be written ({error.strerror}); choose another --output") from error
    print(_text(exported, name))
    return 0


def _test_images(dataset: str | None, data_dir: Path | None) -> tuple[Tensor | None, Tensor | None, str]:
    """Return test images and labels of a data set, and what they are called; none if there is no data set.

    They are the test images, since a packed file does not say which of the others its student was trained on.
    """
    if dataset is None:
        if data_dir is not None:
            raise UserError(f"--data-dir {data_dir}: of which data set? add --dataset {' or '.join(DATASETS)}")
        return None, None, "random images"
    if dataset not in DATASETS:
        raise unknown("data set", dataset, DATASETS)
    entry = DATASETS[dataset]
    if data_dir is None and not entry.is_embedded:
        raise UserError(f"--dataset {dataset}: needs --data-dir, the folder with its files")
    _, (images, labels) = entry.find(data_dir, Path()).decode()
    return torch.from_numpy(images.copy()), torch.from_numpy(labels.copy()), f"test images of {dataset}"


def _text(exported: Exported, images_name: str) -> str:
    check = exported.check
    lines = [
        f"{exported.path}: {exported.to}, {exported.exported_bytes:,} bytes (packed: {exported.packed_bytes:,} bytes)",
        f"weights: {_widths(exported)}",
        f"checked: in {check.runtime} on {check.images:,} {images_name}: {100 * check.agreement:.2f} % of the "
        f"predicted classes agree, logits differ by {check.error:.1e} of their size",
    ]
    if check.packed_top1 is not None:
        lines.append(f"top-1: packed {check.packed_top1:.2f} %, exported {check.exported_top1:.2f} %")
    return "\n".join([*lines, f"model card: {exported.card}"])


def _widths(exported: Exported) -> str:
    """Return the bits of a weight as packed and as exported, as many layers as have them."""
    counts = Counter(exported.widths.values())
    parts = (f"{count} layers at {packed} → {bits} bits" for (packed, bits), count in sorted(counts.items()))
    return ", ".join(parts) or "float"
