"""What trials share: teachers of the transformers library in a study, and the teacher-logits cache."""

import dataclasses
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageClassification, ResNetConfig, ViTImageProcessor

from kdq.bits import Allocation
from kdq.data.dataset import Dataset
from kdq.distill.methods import MethodConfig
from kdq.distill.recipe import TrainConfig
from kdq.distill.teachers import parse_spec
from kdq.distill.trainer import Trainer
from kdq.errors import UserError
from kdq.models.checkpoint import save as kdq_save
from kdq.models.classifier import Classifier, build
from kdq.models.evaluate import logits
from kdq.models.huggingface import Pretrained, load_pretrained
from kdq.quantize.model import layer_names
from kdq.store.folder_store import StageStore
from study.plan.plan import Plan
from study.results.status import TrialStatus
from study.space.load import load_space
from study.space.workload import load_workload
from study.trial import worker as trial_module
from study.trial.events import EpochEnded, Event, PointMeasured, TrialEnded
from study.trial.inputs import (
    check_quantizable,
    evaluate_teacher,
    prepare_data,
    prepare_peer,
    prepare_teacher,
)
from study.trial.trial import Trial, make_trial
from study.trial.worker import DataRef, Inputs, ModelRef, Probing, load_teacher, run_trial

Prepared = tuple[StageStore, DataRef, Dataset]


def plan(space: str = "dkd_grid", **settings: Any) -> Plan:
    small = {"train.epochs": 2, "train.warmup_epochs": 0, "train_images": 300, **settings}
    return Plan(space, "digits", load_space(space, {"bits": (4,), "trials": 3}), load_workload("digits", small), (0,))


def make_trials(plan: Plan, inputs: Inputs) -> dict[str, Trial]:
    made = [make_trial(plan, inputs.ids, *run) for run in plan.runs]
    return {trial.id: trial for trial in made}


def quiet(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    store = StageStore(tmp_path_factory.mktemp("study") / "stages")
    return store, *prepare_data(plan().workload, None, store, quiet)


def save(folder: Path, names: Mapping[int, str]) -> Path:
    config = ResNetConfig(
        num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", id2label=dict(names)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}, image_mean=[0.3], image_std=[0.4]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def fine_tuned(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ResNet of the library, trained on the digits, whose labels stand in another order."""
    _, _, data = prepared
    folder = save(tmp_path_factory.mktemp("model"), {i: str(9 - i) for i in range(10)})
    model = load_pretrained(folder, data.class_names, 1)
    config = TrainConfig(epochs=4, batch_size=25, lr=0.05)
    trainer = Trainer(config, MethodConfig.parse({"method": "ce"}), model, None, data, stream_seed=0)
    for _ in range(config.epochs):
        trainer.run_epoch()
    assert isinstance(model.net, Pretrained)
    model.net.model.save_pretrained(folder)  # type: ignore[operator]
    return folder


def prepare(prepared: Prepared, folder: Path, said: list[str] | None = None) -> ModelRef:
    store, reference, data = prepared
    spec = parse_spec(f"transformers:{folder}")
    say = quiet if said is None else said.append
    return prepare_teacher(plan().workload, spec, reference, data, store, say)


def test_a_transformers_teacher_is_a_stage_of_its_own_files(
    prepared: Prepared, fine_tuned: Path, tmp_path: Path
) -> None:
    _, _, data = prepared
    elsewhere = Path(shutil.copytree(fine_tuned, tmp_path / "copy"))
    (elsewhere / "modeling.py").write_text("raise SystemExit")
    said: list[str] = []
    teacher = prepare(prepared, elsewhere, said)
    assert (teacher.arch, teacher.pretrained, said) == ("transformers:resnet", True, [])
    names = {file.name for file in Path(teacher.folder).iterdir()}
    assert names == {"config.json", "preprocessor_config.json", "model.safetensors", "stage.json"}
    shutil.rmtree(elsewhere)
    expected = load_pretrained(fine_tuned, data.class_names, 1)
    images = data.val_images[:20]
    assert torch.equal(logits(load_teacher(teacher, data), images), logits(expected, images))
    assert prepare(prepared, fine_tuned) == teacher


def test_it_is_evaluated_once(prepared: Prepared, fine_tuned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, reference, data = prepared
    teacher = prepare(prepared, fine_tuned)
    accuracy = evaluate_teacher(teacher, reference, data, store, quiet)
    assert accuracy[0] > 50

    def never(*_: object) -> Classifier:
        raise AssertionError

    monkeypatch.setattr("study.trial.inputs.load_teacher", never)
    assert evaluate_teacher(teacher, reference, data, store, quiet) == accuracy


def test_damaged_stages_are_named(prepared: Prepared, fine_tuned: Path, tmp_path: Path) -> None:
    _, reference, data = prepared
    store = StageStore(tmp_path)
    spec = parse_spec(f"transformers:{fine_tuned}")
    teacher = prepare_teacher(plan().workload, spec, reference, data, store, quiet)
    evaluate_teacher(teacher, reference, data, store, quiet)
    (accuracy,) = tmp_path.glob("accuracy/*/correct.json")
    for content in ("", "[]", '{"val": null, "test": "1p0"}', '{"val": "1p0"}'):
        accuracy.write_text(content)
        with pytest.raises(
            UserError, match=rf"^{accuracy.parent}: damaged stage \(correct\.json: .*remove this folder"
        ):
            evaluate_teacher(teacher, reference, data, store, quiet)
    weights = Path(teacher.folder) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UserError, match=rf"^{teacher.folder}: damaged stage \(.*remove this folder"):
        load_teacher(teacher, data)


def test_a_random_one_stops_the_study(prepared: Prepared, tmp_path: Path) -> None:
    store, reference, data = prepared
    said: list[str] = []
    teacher = prepare(prepared, save(tmp_path, {i: f"LABEL_{i}" for i in range(10)}), said)
    assert said == ["teacher: its 10 labels have no names; assuming the order of the data set"]
    with pytest.raises(UserError, match=r"on digits, where guessing gives 10\.00 %: its weights, label order"):
        evaluate_teacher(teacher, reference, data, store, quiet)
    with pytest.raises(UserError, match=r"on digits, where guessing gives 10\.00 %: it has not learned .* longer"):
        evaluate_teacher(teacher, reference, data, store, quiet, is_trained_here=True)


def test_one_that_resizes_cannot_itself_be_quantized(prepared: Prepared, fine_tuned: Path) -> None:
    teacher, data = prepare(prepared, fine_tuned), prepared[2]
    with pytest.raises(UserError, match="'teacher_ptq' quantizes the teacher itself"):
        check_quantizable(plan("teacher_ptq"), teacher, data)
    check_quantizable(plan(), teacher, data)


def test_one_that_takes_the_images_as_they_are_is_quantized(
    prepared: Prepared, fine_tuned: Path, tmp_path: Path
) -> None:
    store, reference, data = prepared
    folder = Path(shutil.copytree(fine_tuned, tmp_path / "model"))
    ViTImageProcessor(do_resize=False, image_mean=[0.3], image_std=[0.4]).save_pretrained(folder)
    teacher = prepare(prepared, folder)
    check_quantizable(plan("teacher_ptq"), teacher, data)
    images = data.val_images[:20]
    expected = load_pretrained(folder, data.class_names, 1)
    torch.testing.assert_close(logits(load_teacher(teacher, data), images), logits(expected, images))
    shutil.rmtree(folder)
    inputs = Inputs(str(store.root), reference, teacher)
    (trial, *_) = make_trials(plan("teacher_ptq"), inputs).values()
    points = [event for event in run(trial, inputs, tmp_path / "log") if isinstance(event, PointMeasured)]
    assert points
    assert str(tmp_path) not in Path(points[0].files[0]).read_bytes().decode("latin-1")


def run(trial: Trial, inputs: Inputs, log: Path) -> list[Event]:
    events = list(run_trial(trial, inputs, "cpu", log, Probing()))
    assert events[-1] == TrialEnded(TrialStatus.COMPLETED)
    return events


def test_its_trials_ask_it_once_about_a_view(
    prepared: Prepared, fine_tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three trials of two epochs on 300 images: 600 views, whoever asks; each reports its curve and its points."""
    store, reference, _ = prepared
    asked = []
    real = trial_module.ForwardTeacher

    def counting(*arguments: Any) -> Any:
        answer = real(*arguments)
        return lambda view: asked.append(len(view.images)) or answer(view)  # type: ignore[func-returns-value]

    monkeypatch.setattr(trial_module, "ForwardTeacher", counting)
    inputs = Inputs(str(store.root), reference, prepare(prepared, fine_tuned))
    trials = make_trials(plan(), inputs)
    assert len(trials) == 3
    for trial in trials.values():
        events = run(trial, inputs, tmp_path / "log")
        kinds = [EpochEnded, EpochEnded, PointMeasured, PointMeasured, TrialEnded]
        assert [type(event) for event in events] == kinds
        assert sum(asked) == 600
        assert len(list((store.root / "logits").glob("*/logits.npy"))) == 2
        again = pickle.loads(pickle.dumps(trial))  # as Ray sends it to a worker
        assert (again, again.id) == (trial, trial.id)
    other_seed = make_trial(plan(), inputs.ids, plan().runs[0][0], 1)
    run(other_seed, inputs, tmp_path / "log")
    assert sum(asked) == 1200


def test_a_trial_measures_its_mixed_allocations(prepared: Prepared, tmp_path: Path) -> None:
    store, reference, data = prepared
    first, *others = layer_names(build("resnet8", classes=10, normalization=data.normalization, seed=0))
    mixed = Allocation.of({first: 8, **dict.fromkeys(others, 2)})
    inputs = Inputs(str(store.root), reference)
    trial = next(trial for trial in make_trials(plan("methods"), inputs).values() if trial.method == "ce")
    float_point = trial.points[0]
    asked = [dataclasses.replace(float_point, bits=bits) for bits in (mixed, Allocation.uniform(2))]
    events = run(dataclasses.replace(trial, points=(float_point, *asked)), inputs, tmp_path / "log")
    points = [event.point for event in events if isinstance(event, PointMeasured)]
    assert [point.bits for point in points] == [32, mixed.label, 2]
    sizes = [point.total_bits for point in points]
    assert sizes[2] < sizes[1] < sizes[0]


@pytest.mark.parametrize("source", ["train", "file"])
def test_a_peer_starts_from_what_the_workload_names(prepared: Prepared, source: str, tmp_path: Path) -> None:
    store, reference, data = prepared
    if source == "file":
        kdq_save(build("resnet8", classes=10, normalization=data.normalization, seed=5), tmp_path / "w.safetensors")
    mutual = plan("dml", peer_init="train" if source == "train" else f"resnet8:{tmp_path / 'w.safetensors'}")
    assert mutual.needs_peer
    assert not plan("dkd_grid", peer_init="train").needs_peer
    said: list[str] = []
    peer = prepare_peer(mutual.workload, reference, data, store, said.append)
    assert said
    again = prepare_peer(mutual.workload, reference, data, store, quiet)
    assert again == peer
    with_peer, without = (Inputs(str(store.root), reference, peer=which) for which in (peer, None))
    trials = make_trials(mutual, with_peer)
    assert not trials.keys() & make_trials(mutual, without).keys()
    first = run(next(iter(trials.values())), with_peer, tmp_path / "log")[0]
    assert isinstance(first, EpochEnded)
    # Weights that were trained on this data are ahead of random ones after the first epoch.
    assert (first.metrics["val_top1_peer"] > first.metrics["val_top1_student"]) == (source == "train")


def test_a_method_without_a_peer_is_the_same_trial_whatever_a_peer_would_start_from(prepared: Prepared) -> None:
    store, reference, _ = prepared
    teacher, peer = ModelRef("t", "t", "resnet20"), ModelRef("p", "p", "resnet8")
    with_peer, without = (Inputs(str(store.root), reference, teacher, which) for which in (peer, None))
    assert make_trials(plan(), with_peer).keys() == make_trials(plan(), without).keys()


def test_a_peer_that_does_not_fit_is_said_before_the_study_starts(prepared: Prepared, tmp_path: Path) -> None:
    store, reference, data = prepared
    kdq_save(build("resnet14", classes=10, normalization=data.normalization, seed=5), tmp_path / "w.safetensors")
    mutual = plan("dml", peer_init=f"resnet8:{tmp_path / 'w.safetensors'}")
    with pytest.raises(UserError, match="does not fit resnet8"):
        prepare_peer(mutual.workload, reference, data, store, quiet)
