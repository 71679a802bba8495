"""Images and labels in parquet files of any image-classification data set in the layout of the Hugging Face Hub."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdq.data.encoded import KEYWORDS, TEST, TRAIN, VAL, Block, Bytes, EncodedSplit, OwnImages, listed
from kdq.data.parquet import check_complete, opened_parquet
from kdq.errors import UserError, quoted, unknown

ROWS = 16  # of a block, all in memory
LABELS = ("label", "labels", "target", "class", "fine_label")
"""Names of label columns, for files that do not say which column has the classes."""


@dataclass(frozen=True, slots=True)
class Columns:
    """image, label: names of columns; is_struct: an image is a struct with its bytes, or just these; names: of the
    classes by number, None if the file does not give them."""

    image: str
    label: str
    is_struct: bool
    names: tuple[str, ...] | None


def find_images(name: str, root: Path, image: str | None, label: str | None) -> OwnImages:
    """Return the images in the parquet files below a folder.

    A file belongs to the split that its name begins with, or its folder's name (`test-00000-of-00001.parquet`,
    `test/0000.parquet`), else to the training images. image, label: names of columns; by default those that the
    features of the `datasets` library declare as Image and ClassLabel, or else the only ones of suitable types. Classes
    are those of ClassLabel; otherwise the labels in ascending order, whole numbers or texts. A split without any label
    is ignored. Raises UserError for missing or ambiguous columns and for labels that are not classes.
    """
    files = _files(name, root)
    columns = _columns(files[TRAIN][0], image, label)
    for file in (file for own in files.values() for file in own):
        _check_columns(file, columns)
    raw = {split: [_raw_labels(file, columns) for file in own] for split, own in files.items()}
    found: list[str] = []
    for split in (VAL, TEST):
        if split in raw and all(value is None or value == -1 for labels in raw[split] for value in labels):
            del raw[split], files[split]
            found.append(f"ignored: the {split} files, which have no labels")
    class_names, numbers = _classes(name, columns, {value for labels in raw[TRAIN] for value in labels}, found)
    splits = {
        split: _split(
            root, own, columns, [_numbers(*pair, columns, numbers) for pair in zip(own, raw[split], strict=True)]
        )
        for split, own in files.items()
    }
    return OwnImages(name, class_names, splits, tuple(found))


def _files(name: str, root: Path) -> dict[str, list[Path]]:
    """Return the files of each split, in the order of their names. Raises UserError if they belong to several sets."""
    found = sorted(file for file in root.rglob("*.parquet") if not file.name.startswith("."))
    files: dict[str, list[Path]] = {}
    for file in found:
        files.setdefault(_split_of(file, root), []).append(file)
    if TRAIN not in files:
        raise UserError(f"{name}: no parquet files of training images below {root}; give the folder that has them")
    for split, own in files.items():
        if len(folders := sorted({file.parent for file in own})) > 1:
            names = listed([str(folder.relative_to(root)) for folder in folders])
            raise UserError(f"{name}: {split} files are in several folders ({names}); give the one to use")
        if len(own) > 1 and any(re.search(r"-\d{5}-of-\d{5}", file.name) for file in own):
            check_complete(own, re.split(r"-\d{5}-of-", own[0].name)[0])
    return files


def _split_of(file: Path, root: Path) -> str:
    for text in (file.name, *(folder.name for folder in file.relative_to(root).parents)):
        word = re.split(r"[^a-z]", text.lower())[0]
        for split, words in KEYWORDS.items():
            if word in words:
                return split
    return TRAIN


def _columns(file: Path, image: str | None, label: str | None) -> Columns:
    from pyarrow import types

    with opened_parquet(file) as parquet:
        schema = parquet.schema_arrow
    declared = _features(schema.metadata)
    for column in (image, label):
        if column is not None and column not in schema.names:
            raise UserError(f"{file}: {unknown('column', column, schema.names)}")
    suitable = [name for name in schema.names if _is_image(schema.field(name).type)]
    image = image or _only(file, "image", [n for n in suitable if declared.get(n) == "Image"] or suitable, schema.names)
    if image not in suitable:
        raise UserError(f"{file}: column {image} is {schema.field(image).type}, not images as their bytes")
    class_labels = [name for name in schema.names if isinstance(declared.get(name), tuple)]
    usual = [name for name in LABELS if name in schema.names][:1]
    others = [n for n in schema.names if n != image and _is_class(schema.field(n).type)]
    label = label or _only(file, "label", class_labels or usual or others, schema.names)
    if not _is_class(kind := schema.field(label).type):
        raise UserError(
            f"{file}: column {label} is {kind}; a class must be a whole number or a text; name another by label_column"
        )
    names = declared.get(label)
    return Columns(image, label, types.is_struct(schema.field(image).type), names if isinstance(names, tuple) else None)


def _check_columns(file: Path, columns: Columns) -> None:
    """Raise UserError for a file without rows or the columns of the first training file, or with other classes."""
    from pyarrow import types

    with opened_parquet(file) as parquet:
        schema, rows = parquet.schema_arrow, parquet.metadata.num_rows
    if not rows:
        raise UserError(f"{file}: holds no rows; copy or download it again")
    for column in (columns.image, columns.label):
        if column not in schema.names:
            raise UserError(f"{file}: {unknown('column', column, schema.names)}; all files must have the same columns")
    image, label = (schema.field(column).type for column in (columns.image, columns.label))
    if not _is_image(image) or not (_is_class(label) or types.is_null(label)):
        raise UserError(f"{file}: its columns are of other types than in other files; is it of the same data set?")
    names = _features(schema.metadata).get(columns.label)
    if not isinstance(names, tuple):
        return  # its labels are taken for those of the training images
    shown = listed([str(name) for name in names])
    if columns.names not in (None, names):
        raise UserError(
            f"{file}: its classes are {shown}, those of the training images {listed(columns.names or ())}; all files "
            "must have the same, in the same order"
        )
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise UserError(f"{file}: its classes are {shown}; must be different texts")


def _features(metadata: dict[bytes, bytes] | None) -> dict[str, str | tuple[str, ...]]:
    """Return what the `datasets` library has written of each column: "Image", or the names of a ClassLabel."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        kinds = {name: each["_type"] for name, each in features.items() if isinstance(each, dict) and "_type" in each}
        return {name: _names(features[name]["names"]) if kind == "ClassLabel" else kind for name, kind in kinds.items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _names(names: Any) -> tuple[str, ...]:
    if not isinstance(names, list):
        raise TypeError("names of classes: must be a list")
    return tuple(names)


def _only(file: Path, role: str, candidates: Sequence[str], names: Sequence[str]) -> str:
    if len(candidates) != 1:
        which = f"several may be the {role}" if candidates else f"none is the {role} by its type"
        raise UserError(
            f"{file}: of its columns {', '.join(candidates or names)}, {which}; name it by {role}_column, such as "
            f"--set {role}_column={(candidates or names or ['NAME'])[-1]}"
        )
    return candidates[0]


def _is_image(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_image(kind.field("bytes").type)
    return any(check(kind) for check in (types.is_binary, types.is_large_binary, types.is_binary_view))


def _is_class(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        return _is_class(kind.value_type)
    checks = (types.is_integer, types.is_boolean, types.is_string, types.is_large_string, types.is_string_view)
    return any(check(kind) for check in checks)


def _raw_labels(file: Path, columns: Columns) -> list[int | str | None]:
    with opened_parquet(file) as parquet:
        labels: list[int | str | None] = parquet.read(columns=[columns.label]).column(columns.label).to_pylist()
    return labels


def _classes(
    name: str, columns: Columns, values: set[int | str | None], found: list[str]
) -> tuple[tuple[str, ...], dict[int | str, int]]:
    """Return the names of the classes, and the class of each label; add to `found` how labels become classes."""
    if columns.names is not None:
        return columns.names, {number: number for number in range(len(columns.names))}
    known: list[Any] = sorted(value for value in values if value is not None)  # of one type, that of the column
    if len(known) < 2:
        raise UserError(f"{name}: column {columns.label} has {len(known)} different labels; it must have at least 2")
    if isinstance(known[0], int) and known[0] < 0:
        raise UserError(f"{name}: column {columns.label} has the label {known[0]}; classes must be at least 0")
    if isinstance(known[0], int) and (known[0], known[-1]) != (0, len(known) - 1):
        gaps = "" if known[-1] - known[0] < len(known) else ", with gaps"
        found.append(f"labels {known[0]} to {known[-1]}{gaps} are the classes 0 to {len(known) - 1}, in that order")
    return tuple(str(value) for value in known), {value: number for number, value in enumerate(known)}


def _numbers(
    file: Path, labels: Sequence[int | str | None], columns: Columns, numbers: dict[int | str, int]
) -> NDArray[np.int64]:
    """Return the classes of labels, int64 [N]. Raises UserError for the first that is none of them."""
    found = np.array([-1 if label is None else numbers.get(label, -1) for label in labels], dtype=np.int64)
    if (wrong := np.flatnonzero(found < 0)).size:
        label = labels[int(wrong[0])]
        what = "is missing" if label is None else f"{quoted(label)} is none of the {len(numbers)} classes in training"
        raise UserError(f"{file}: row {wrong[0]}: label {what}; remove such rows, or name another by label_column")
    return found


def _split(root: Path, files: Sequence[Path], columns: Columns, labels: Sequence[NDArray[np.int64]]) -> EncodedSplit:
    places = [
        f"{file.relative_to(root)}: row {row}:"
        for file, own in zip(files, labels, strict=True)
        for row in range(len(own))
    ]
    return EncodedSplit(places, np.concatenate(labels), partial(_blocks, files, columns), list(map(str, files)))


def _blocks(files: Sequence[Path], columns: Columns) -> Iterator[Block]:
    start = 0
    for file in files:
        with opened_parquet(file) as parquet:
            for batch in parquet.iter_batches(ROWS, columns=[columns.image]):
                column = batch.column(0)
                encoded = (column.field("bytes") if columns.is_struct else column).to_pylist()
                yield Block(start, partial(map, _bytes, encoded))
                start += len(encoded)


def _bytes(encoded: bytes | None) -> Bytes:
    return encoded or UserError("has no bytes" if encoded is None else "is empty (0 bytes)")
