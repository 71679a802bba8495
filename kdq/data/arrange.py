"""Which images of a user's own train, validate and test, and in which order: decided by their content alone."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdq.data.audit import LARGEST_SHARE
from kdq.data.encoded import TEST, TRAIN, VAL, EncodedSplit, OwnImages, Survey, listed
from kdq.errors import UserError

TEST_SHARE = 0.2
"""Of the images that are drawn for testing where no folder or file is named after a test."""

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Arrangement:
    """rows: target -> the split that it is a part of, and the numbers of its images there, in the order of the
    target; any beginning of a target holds each class in proportion to its size. found: a line for each thing that a
    user should know."""

    rows: Mapping[str, tuple[str, Rows]]
    found: tuple[str, ...]

    def places(self, split: str, count: int) -> tuple[list[str | None], Rows]:
        """Return the target of each of a split's `count` images, None if it is left out, and its position there."""
        targets: list[str | None] = [None] * count
        positions = np.zeros(count, dtype=np.int64)
        for target, (name, rows) in self.rows.items():
            if name == split:
                positions[rows] = np.arange(len(rows))
                for row in rows.tolist():
                    targets[row] = target
        return targets, positions


def arrange(own: OwnImages, surveys: Mapping[str, Survey]) -> Arrangement:
    """Return the arrangement of images whose headers have been read.

    Copies of a file in the same split are left out. Without a test split, one named after validation reports; without
    either, TEST_SHARE of the images are drawn. Raises UserError for many copies under different classes.
    """
    found: list[str] = []
    ordered = {name: _distinct(own, name, split, surveys[name], found) for name, split in own.splits.items()}
    rows = {name: (name, own_rows) for name, own_rows in ordered.items()}
    if TEST not in rows and VAL in rows:
        rows[TEST] = rows.pop(VAL)
        found.append("no test images: those for validation are the test images; others validate, drawn from training")
    elif TEST not in rows:
        train = ordered[TRAIN]
        count = max(1, round(TEST_SHARE * len(train)))
        rows = {TRAIN: (TRAIN, train[count:]), TEST: (TRAIN, train[:count])}
        found.append(
            f"no test images: {TEST_SHARE:.0%} of all images test, drawn by their content, of each class alike"
        )
    return Arrangement(rows, tuple(found))


def by_content(labels: NDArray[np.int64], keys: NDArray[np.bytes_]) -> Rows:
    """Return the order in which every beginning holds each class in proportion to its size, to one image or less.

    labels: int64 [N]; keys: S32 [N], of the images' content. Within a class the keys decide, which are as good as
    random, so that an image more or less hardly changes which of the others come first.
    """
    order = np.lexsort((keys, labels))
    sizes = np.bincount(labels)[labels[order]]
    ranks = np.arange(len(labels)) - np.searchsorted(labels[order], labels[order])
    return order[np.lexsort((labels[order], (ranks + 0.5) / sizes))]


def _distinct(own: OwnImages, name: str, split: EncodedSplit, survey: Survey, found: list[str]) -> Rows:
    """Return the images of a split without copies, in the order of `by_content`; add to `found` what is left out."""
    readable = np.flatnonzero(survey.sizes[:, 0] > 0)
    keys, inverse = np.unique(survey.keys[readable], return_inverse=True)
    labels = split.labels[readable]
    lowest = np.full(len(keys), np.iinfo(np.int64).max)
    highest = np.full(len(keys), -1)
    np.minimum.at(lowest, inverse, labels)
    np.maximum.at(highest, inverse, labels)
    contradicting = (lowest < highest)[inverse]
    _check_contradictions(own, split, readable[contradicting], name, found)
    first = np.zeros(len(readable), dtype=bool)
    first[np.unique(inverse, return_index=True)[1]] = True
    if copies := int((~first & ~contradicting).sum()):
        found.append(f"left out: {copies:,} {name} images that are copies of others in the same class")
    kept = np.sort(np.concatenate([readable[first & ~contradicting], np.flatnonzero(survey.sizes[:, 0] == 0)]))
    return kept[by_content(split.labels[kept], survey.keys[kept])]


def _check_contradictions(own: OwnImages, split: EncodedSplit, rows: Rows, name: str, found: list[str]) -> None:
    if not len(rows):
        return
    places = listed([f"{split.places[row]} ({own.class_names[split.labels[row]]})" for row in rows.tolist()])
    if len(rows) > LARGEST_SHARE * len(split.labels):
        raise UserError(
            f"{own.name}: {len(rows):,} {name} images have copies in other classes ({places}), of "
            f"{len(split.labels):,}: at most {LARGEST_SHARE:.0%} may; delete the wrong ones"
        )
    found.append(f"left out: {len(rows):,} {name} images with copies in other classes ({places})")
