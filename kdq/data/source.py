"""What a data set comes from, and what is known of it before it is decoded."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdq.store.stage import Json

Split = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images uint8 [N, C, H, W] and labels int64 [N]."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a data set holds: images uint8 [channels, size, size], and how many there are to train and to test on.

    val: the number of validation images of its own, 0 if they are drawn from those to train on.
    """

    channels: int
    size: int
    classes: int
    train: int
    test: int
    val: int = 0


@dataclass(frozen=True)
class Source:
    """The origin of a data set known by its name, which is in its `identity`, as is what determines its content.

    decode: returns (train, test); found: nothing that a user should know.
    """

    identity: Json
    class_names: tuple[str, ...]
    decode: Callable[[], tuple[Split, Split]]
    found: tuple[str, ...] = ()
