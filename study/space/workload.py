"""A workload: the data set, teacher, student and training recipe on which a space is searched."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from kdq.data.sources import find_shape
from kdq.data.spec import DataSpec
from kdq.distill.features import FeatureLayers
from kdq.distill.peers import parse_peer
from kdq.distill.recipe import TrainConfig
from kdq.errors import UserError, unknown
from kdq.models.classifier import check_architecture
from kdq.models.sources import pinned
from kdq.quantize.config import QuantizerSpec
from study.space.documents import locate, read, validate

NEWER = (*(field.name for field in fields(DataSpec)[1:]), "student_layers", "teacher_layers")
"""Fields that studies of earlier versions lack: a default is left out of a study's settings, so they stay equal."""

FOLDER = Path(__file__).parents[1] / "workloads"


@dataclass(frozen=True, slots=True)
class Workload:
    """What the trials of a study work on.

    teacher: a teacher's specification (see kdq.distill.teachers); teacher_train: the recipe of a `train:ARCH` teacher;
    train_images: the number of training images, all if None; val_images: the number of images held out of the
    training set for validation, or of the data set's own; by default a tenth, or all its own;
    quantizer: how students are quantized; calibration_images: the number of training
    images for it; teacher_normalization: the normalisation of pretrained weights whose source declares none, `dataset`
    (the data set's own mean and deviation) or `imagenet`; peer_init: the initial weights of the second student in
    methods that train two (see kdq.distill.peers), random if None; image_size, resize, image_column, label_column,
    unreadable: how images of the user's own are read (see kdq.data.spec); student_layers, teacher_layers: the
    layers whose outputs methods with a feature loss compare, by default the stages of both networks.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    description: str
    dataset: str
    teacher: str
    student: str
    train: TrainConfig
    val_images: int | None = None
    train_images: int | None = None
    quantizer: QuantizerSpec = field(default_factory=QuantizerSpec)
    calibration_images: int = 512
    teacher_normalization: str = "dataset"
    teacher_train: TrainConfig | None = None
    peer_init: str | None = None
    image_size: int | None = None
    resize: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    unreadable: str | None = None
    student_layers: tuple[str, ...] | None = None
    teacher_layers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.data.kind in ("", "torchvision"):
            self.check_size(find_shape(self.data, None).size)
        elif self.image_size:
            self.check_size(self.image_size)
        check_architecture(self.student)
        if self.peer_init is not None:
            parse_peer(self.peer_init, self.student)
        if self.teacher_normalization not in ("dataset", "imagenet"):
            raise unknown("teacher_normalization", self.teacher_normalization, ("dataset", "imagenet"))
        for name in ("val_images", "train_images", "calibration_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} = {value}: must be at least 1")
        _ = self.layers  # raises unless both name equally many

    @property
    def layers(self) -> FeatureLayers | None:
        """The layers that methods with a feature loss compare; None for the stages of both networks."""
        if self.student_layers is None and self.teacher_layers is None:
            return None
        return FeatureLayers(self.student_layers or (), self.teacher_layers or ())

    @property
    def data(self) -> DataSpec:
        """The data set, and how its images are read."""
        return DataSpec.parse({field.name: getattr(self, field.name) for field in fields(DataSpec)})

    def check_size(self, size: int) -> None:
        """Raise UserError for recipes that do not suit images of `size` x `size` pixels."""
        for recipe in (self.train, self.teacher_train):
            if recipe:
                recipe.augment.check(size)

    def document(self) -> dict[str, Any]:
        """Return all that determines what the workload does, without what is left to its default in newer fields."""
        found = asdict(self)
        del found["description"]
        for name, recipe in (("train", self.train), ("teacher_train", self.teacher_train)):
            if recipe:
                found[name]["augment"] = recipe.augment.identity()
        return {key: value for key, value in found.items() if value is not None or key not in NEWER}

    @property
    def teacher_recipe(self) -> TrainConfig:
        """The recipe of a `train:ARCH` teacher."""
        return self.teacher_train or self.train


def load_workload(name: str, overrides: Mapping[str, Any]) -> Workload:
    """Load a shipped workload by name or a user's own by path, with dotted overrides such as `train.epochs`.

    Raises UserError with every error of the document.
    """
    path = locate("workload", name, FOLDER)
    document = read(path)
    for key, value in overrides.items():
        *parents, last = key.split(".")
        target = document
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise UserError(f"--set {key}: {parent!r} is a single value in {path}, without keys of its own")
        target[last] = value
    workload = validate(document, Workload, f"{path}{' with the options given' if overrides else ''}")
    return replace(workload, student=pinned(workload.student))
