"""A data set as a workload names it, and how its images are read."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from kdq.data.image_files import RESIZES
from kdq.data.torchvision_sets import known
from kdq.errors import UserError, unknown
from kdq.models.classifier import LARGEST_SIDE

KINDS = ("folder", "parquet", "torchvision")
REFUSE, DROP = "refuse", "drop"


@dataclass(frozen=True, slots=True)
class DataSpec:
    """A data set: a known name, `torchvision:NAME`, or `folder:DIR` or `parquet:DIR` for images of the user's own.

    The rest is for images of the user's own and for torchvision's photographs. image_size: side in pixels of the
    squares that they are made, by default the size that all have; resize: how, "crop" by default (see RESIZES);
    image_column, label_column: of parquet files, by default found from their schema; unreadable: REFUSE the data set,
    the default, or DROP the images that are unreadable. Raises UserError for values that are not allowed.
    """

    dataset: str
    image_size: int | None = None
    resize: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    unreadable: str | None = None

    def __post_init__(self) -> None:
        given = [field.name for field in fields(self)[1:] if getattr(self, field.name) is not None]
        columns = [name for name in given if name.endswith("_column")]
        if given and not self.kind:
            raise UserError(f"{given[0]}: the images of {self.dataset!r} are known; leave it out (null)")
        if columns and self.kind != "parquet":
            raise UserError(f"{columns[0]}: only parquet files have columns; leave it out, or give parquet:DIR")
        if self.kind and not self.place:
            raise UserError(f"dataset = {self.dataset!r}: must name a folder, as in folder:DIR, or a data set")
        if given and self.kind == "torchvision" and known(self.place).size:
            raise UserError(f"{given[0]}: the images of {self.dataset!r} are known; leave it out (null)")
        if self.image_size is not None and not 1 <= self.image_size <= LARGEST_SIDE:
            raise UserError(f"image_size = {self.image_size}: must be from 1 to {LARGEST_SIDE} pixels")
        if self.resize is not None and self.resize not in RESIZES:
            raise unknown("resize", self.resize, RESIZES)
        if self.unreadable not in (None, REFUSE, DROP):
            raise unknown("unreadable", self.unreadable, (REFUSE, DROP))

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> "DataSpec":
        """Return the data set of a workload's settings, of which others are ignored."""
        return cls(**{field.name: settings[field.name] for field in fields(cls) if field.name in settings})

    @property
    def kind(self) -> str:
        """One of KINDS; empty for a data set known by its name."""
        kind, colon, _ = self.dataset.partition(":")
        return kind if colon and kind in KINDS else ""

    @property
    def place(self) -> str:
        """What is behind the kind."""
        return self.dataset.partition(":")[2]

    def folder(self, data_dir: Path | None) -> Path:
        """Return the folder with the images: below the user's `data_dir`, if that is given and it is relative."""
        return (data_dir or Path()) / Path(self.place).expanduser()
