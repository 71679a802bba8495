"""The setting that benchmarks share: CIFAR-10, with the published ResNet-56 as teacher of a ResNet-20."""

from pathlib import Path

from kdq.data.augment import AugmentConfig
from kdq.data.dataset import Dataset, open_dataset
from kdq.data.sources import load_source
from kdq.distill.methods import MethodConfig
from kdq.distill.recipe import TrainConfig
from kdq.distill.teachers import find_checkpoint
from kdq.models.checkpoint import IMAGENET, Checkpoint, load
from kdq.models.classifier import Classifier, build
from kdq.store.folder_store import StageStore

METHOD = MethodConfig.parse({"method": "dkd", "alpha": 1, "beta": 8, "temperature": 4})
AUGMENT = AugmentConfig(crop_padding=4, flip=True)


def dataset(data_dir: Path, store: StageStore, images: int, val_images: int = 200) -> Dataset:
    return open_dataset(store.path(load_source("cifar10", data_dir, store)), train_images=images, val_images=val_images)


def teacher(data_dir: Path) -> Classifier:
    return load(Checkpoint("resnet56", find_checkpoint(data_dir, "resnet56*.th")), classes=10, normalization=IMAGENET)


def student(data: Dataset, seed: int = 0, arch: str = "resnet20") -> Classifier:
    return build(arch, classes=data.classes, normalization=data.normalization, seed=seed)


def recipe(epochs: int) -> TrainConfig:
    return TrainConfig(epochs=epochs, batch_size=128, lr=0.1, augment=AUGMENT)
