"""The command `export`: a packed model in another format, checked on a data set's test images or on random ones."""

import shlex
import tempfile
from argparse import Namespace
from collections import Counter
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from kdq.data.dataset import open_dataset
from kdq.data.encoded import listed
from kdq.data.sources import DATASETS, load_source, needs_download
from kdq.data.spec import DataSpec
from kdq.data.torchvision_sets import known
from kdq.errors import UserError
from kdq.export.model import Exported, export
from kdq.models.classifier import Signature
from kdq.pack.file import load
from kdq.store.folder_store import StageStore


def run(options: Namespace) -> int:
    """Export the model and print what was written; return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        images, labels, name = _test_images(options, Path(folder))
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
            where = options.output
            raise UserError(f"{where}: cannot be written ({error.strerror}); choose another --output") from error
    print(_text(exported, name))
    return 0


def _test_images(options: Namespace, folder: Path) -> tuple[Tensor | None, Tensor | None, str]:
    """Return test images and labels of the data set, and what they are called; none if there is no data set.

    They are the test images, since a packed file does not say which of the others its student was trained on. folder:
    for the decoded images.
    """
    dataset, data_dir = options.dataset, options.data_dir
    if dataset is None:
        if data_dir is not None:
            raise UserError(f"--data-dir {data_dir}: of which data set? add --dataset {' or '.join(DATASETS)}")
        return None, None, "random images"
    spec = DataSpec(dataset)
    if needs_download(spec, data_dir):
        raise UserError(f"--dataset {dataset}: needs --data-dir, the folder with its files")
    signature = load(options.model, options.code).signature
    store = StageStore(folder / "stages")
    source = load_source(_sized(spec, signature, options.image_size), data_dir, store)
    data = open_dataset(store.path(source), train_images=None, val_images=None)
    unnamed = tuple(map(str, range(data.classes)))  # of a packed file of format 3
    if signature.class_names not in (data.class_names, unnamed):
        ours, theirs = (listed(names) for names in (signature.class_names, data.class_names))
        raise UserError(f"--dataset {dataset}: has the classes {theirs}, the model has {ours}; give the model's data")
    return data.test_images, data.test_labels, f"test images of {dataset}"


def _sized(spec: DataSpec, signature: Signature, given: tuple[int, int] | None) -> DataSpec:
    """Return the data set with its images made those of the model, if they have no size of their own."""
    size = signature.image_size or given
    if not spec.kind or size is None or (spec.kind == "torchvision" and known(spec.place).size):
        return spec
    if size[0] != size[1]:
        raise UserError(f"--dataset {spec.dataset}: its images are made squares, the model's are {size}; leave it out")
    return replace(spec, image_size=size[0], resize=signature.resize)


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
