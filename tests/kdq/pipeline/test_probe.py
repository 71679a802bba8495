from pathlib import Path

import torch

from kdq.data.dataset import Dataset
from kdq.models.classifier import Normalization, build
from kdq.models.evaluate import top1
from kdq.pack.size import total_bits
from kdq.pipeline.probe import CALIBRATION_IMAGES, VAL_IMAGES, probe
from kdq.quantize.config import QuantizeConfig, QuantizerSpec
from kdq.quantize.model import choose_calibration, quantize
from kdq.store.folder_store import StageStore


def data() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    count = VAL_IMAGES + 100
    images = torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % 3
    parts = (images[:80], labels[:80], images, labels, images[:5], labels[:5])
    return Dataset("made", ("a", "b", "c"), Normalization((0.5,), (0.3,)), *parts, fingerprint="made")


def test_a_probe_is_the_quantized_students_accuracy_and_is_kept(tmp_path: Path) -> None:
    own, store = data(), StageStore(tmp_path)
    model = build("resnet8", classes=3, normalization=own.normalization, seed=0).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert probe(store, "student", (2, 4), QuantizerSpec(), 1, None, lambda: own) is None
    found = probe(store, "student", (2, 4), QuantizerSpec(), 1, lambda: model, lambda: own)
    assert found is not None
    assert [bits for bits, _, _ in found] == [32, 2, 4]
    images = choose_calibration(own.train_images, seed=1, count=CALIBRATION_IMAGES)
    for bits, accuracy, size in found:
        made = quantize(model, images, QuantizeConfig(bits, seed=1))
        assert accuracy == top1(made.model, own.val_images[:VAL_IMAGES], own.val_labels[:VAL_IMAGES])
        assert size == total_bits(made)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert probe(store, "student", (2, 4), QuantizerSpec(), 1, None, lambda: own) == found
    assert probe(store, "student", (2,), QuantizerSpec(), 1, None, lambda: own) is None
