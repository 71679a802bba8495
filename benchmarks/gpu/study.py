"""The rows of a data set: a teacher, and a student for each row of the paper's table. Everything is a stage."""

from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from benchmarks.gpu.output import Output, joined
from benchmarks.gpu.parts import join
from benchmarks.gpu.settings import TEACHER, TEACHER_METHOD, Clock, Settings, read_rows
from kdq.data.augment import Views
from kdq.data.dataset import Dataset, open_dataset
from kdq.distill.methods import MethodConfig
from kdq.distill.teacher_logits import ForwardTeacher, TeacherLogits, TeacherLogitsCache
from kdq.models.checkpoint import Checkpoint, load, save
from kdq.models.classifier import Classifier
from kdq.pipeline.student import StudentSpec, distill, load_student
from kdq.store.files import content_hash
from kdq.store.folder_store import StageStore
from kdq.store.stage import digest

MARGIN = 1.3  # an epoch may take so much longer than the one before it


@cache
def dataset(settings: Settings, name: str) -> Dataset:
    """The data set on the device; its parts must be there."""
    folder = join(settings.parts, name, StageStore(settings.work / "store"))
    data = open_dataset(folder, train_images=settings.train_images, val_images=settings.val_images)
    if (count := settings.test_images) is not None:
        own = digest([data.fingerprint, count])
        data = replace(
            data, test_images=data.test_images[:count], test_labels=data.test_labels[:count], fingerprint=own
        )
    return data.to(settings.device)


@dataclass(frozen=True)
class Study:
    """The rows of one data set, and the epochs of the teacher and of every student."""

    settings: Settings
    name: str
    teacher_epochs: int
    student_epochs: int

    @property
    def store(self) -> StageStore:
        return StageStore(self.settings.work / "store")

    @property
    def data(self) -> Dataset:
        return dataset(self.settings, self.name)

    @property
    def rows(self) -> dict[str, MethodConfig | None]:
        return read_rows(self.settings.parts, self.name)

    @property
    def teacher_file(self) -> Path:
        """The teacher's weights in float16, which is what teaches, here and in a later call elsewhere."""
        return self.settings.work / f"teacher-{self.name}.safetensors"

    def teacher_spec(self) -> StudentSpec:
        recipe = self.settings.recipe(self.teacher_epochs, self.settings.teacher_batch_size)
        return StudentSpec(self.data.fingerprint, None, self.settings.teacher, TEACHER_METHOD, recipe, 0)

    def student_spec(self, method: MethodConfig) -> StudentSpec:
        recipe = self.settings.recipe(self.student_epochs, self.settings.batch_size)
        teacher = self.teacher_id if method.method.needs_teacher else None
        return StudentSpec(self.data.fingerprint, teacher, self.settings.student, method, recipe, 0)

    @property
    def teacher_id(self) -> str:
        return digest({"arch": self.settings.teacher, "sha256": content_hash(self.teacher_file)})

    def teacher(self) -> Classifier:
        checkpoint = Checkpoint(self.settings.teacher, self.teacher_file)
        model = load(checkpoint, classes=self.data.classes, normalization=self.data.normalization)
        return model.to(self.settings.device)

    def model(self, row: str) -> tuple[Classifier, str]:
        """The model that a row quantizes, and its id."""
        method = self.rows[row]
        if method is None:
            return self.teacher(), self.teacher_id
        spec = self.student_spec(method)
        student = load_student(self.store.path(spec.stage()), spec, self.data)
        return student.to(self.settings.device), spec.stage().id

    def answer(self) -> TeacherLogits:
        """The teacher, folded: to be called in the main thread, before any other runs a model."""
        return ForwardTeacher(self.teacher(), self.settings.recipe(1, 1).precision)

    def logits(self, method: MethodConfig, answer: TeacherLogits) -> TeacherLogits | None:
        """The teacher's logits, which rows with the same views share."""
        if not method.method.needs_teacher:
            return None
        recipe = self.settings.recipe(self.student_epochs, self.settings.batch_size)
        views = Views(
            self.data.train_images,
            self.data.train_labels,
            recipe.augment,
            stream_seed=0,
            fill=self.data.normalization.mean,
            mixup_alpha=method.teacher_mixup_alpha,
        )
        return TeacherLogitsCache(
            self.store, lambda: answer, self.teacher_id, self.data, views, precision=recipe.precision, bound=1 << 40
        )


def train(
    study: Study, row: str, clock: Clock, answer: TeacherLogits | None = None, expected: float = 0.0
) -> dict[str, float]:
    """Train the teacher or a row's student, unless it is there. Raises TimeUp before an epoch, and Diverged.

    answer: of a row's teacher; expected: seconds that the first epoch takes. Returns the seconds of all epochs, and
    images a second and validation accuracy of the last.
    """
    method = study.rows[row]
    spec = study.teacher_spec() if method is None else study.student_spec(method)
    teacher = partial(study.logits, method, answer) if method and answer else lambda: None
    if study.store.find(spec.stage()) is None:
        clock.need(MARGIN * expected)
    total, metrics = 0.0, dict[str, float]()
    for epoch in distill(study.store, spec, lambda: study.data, teacher):
        metrics = dict(epoch.metrics)
        total += metrics["seconds"]
        if epoch.model is None:
            continue  # trained by an earlier call
        seconds, accuracy = epoch.metrics["seconds"], epoch.metrics["val_top1"]
        print(f"{study.name} {row}: epoch {epoch.number}/{spec.train.epochs}, {accuracy:.2f} %, {seconds:.3f} s")
        if epoch.number < spec.train.epochs:
            clock.need(MARGIN * seconds)
    return {"seconds": total, "images_per_s": metrics["images_per_s"], "val_top1": metrics["val_top1"]}


def train_teacher(study: Study, output: Output, clock: Clock, expected: float = 0.0) -> None:
    """Make the file of the teacher's weights: trained here, or brought back from an earlier machine."""
    if not (study.teacher_file.exists() or joined(study.settings.parts, study.teacher_file)):
        output.measure(f"{study.name} {TEACHER}", train(study, TEACHER, clock, expected=expected))
        spec = study.teacher_spec()
        save(load_student(study.store.path(spec.stage()), spec, study.data).half(), study.teacher_file)
