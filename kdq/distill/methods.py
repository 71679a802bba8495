"""The distillation methods: one dict, all called alike.

Importing this module does not import torch, so a command line can check configurations before it loads torch.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

from kdq import plugins
from kdq.distill import losses
from kdq.errors import UserError, unknown
from kdq.params import NON_NEGATIVE, POSITIVE, SHARE, Interval, Params, Switch, check_number

if TYPE_CHECKING:
    from torch import Tensor

Terms = dict[str, "Tensor"]
Loss = Callable[["Tensor", "Tensor | None", "Tensor", Params, float], Terms]
"""Takes logits_student [N, C], logits_teacher [N, C] (the peer's for a method with two students, None for one
without either), labels int64 [N], parameters, and the completed share of the training, in [0, 1). Returns the
loss as named terms, each float32 [N], whose sum is the loss per sample."""
FeatureLoss = Callable[[Sequence["Tensor"], Sequence["Tensor"], Params], Terms]
"""Takes the outputs of compared layers of student and teacher, each float [N, …], and parameters; returns terms as a
Loss does, by other names."""


@dataclass(frozen=True, slots=True)
class Method:
    """A way to train a student.

    params: its parameters, each with its default and allowed values. Every method also has `mixup_alpha`: images
    are mixed in pairs by λ ~ Beta(a, a), and so are the losses against both labels; 0 disables mixing. needs_peer:
    two students are trained together, each the other's teacher. by_share: the parameter that, unless it is 0,
    makes the loss depend on the completed share of the training. later: parameters that were added after students had
    been trained: at its default, such a parameter is no part of an identity, so these students are still found.
    perfect: the student's logits, given the teacher's and the parameters, at which every term but `ce` is 0.
    feature_loss: further terms, of the outputs of inner layers; such a method needs a teacher, which runs for every
    student, as these outputs are not cached.
    """

    description: str
    loss: Loss
    params: Mapping[str, tuple[float, Interval | Switch]]
    needs_teacher: bool = True
    needs_peer: bool = False
    by_share: str | None = None
    later: frozenset[str] = frozenset()
    perfect: Callable[[Tensor, Params], Tensor] = lambda logits_teacher, params: logits_teacher
    feature_loss: FeatureLoss | None = None

    def __post_init__(self) -> None:
        if self.feature_loss and (self.needs_peer or not self.needs_teacher):
            raise UserError("a method with a feature_loss needs a teacher, and no peer: set needs_teacher=True")


def _ce(student: Tensor, teacher: Tensor | None, labels: Tensor, params: Params, progress: float) -> Terms:
    return {"ce": losses.cross_entropy(student, labels, params["label_smoothing"])}


def _vkd(student: Tensor, teacher: Tensor | None, labels: Tensor, params: Params, progress: float) -> Terms:
    assert teacher is not None
    alpha, pair = params["alpha"], _standardized(student, teacher, params)
    return {
        "ce": (1 - alpha) * losses.cross_entropy(student, labels, params["label_smoothing"]),
        "kd": alpha * losses.kd(*pair, params["temperature"]),
    }


def _standardized(student: Tensor, teacher: Tensor, params: Params) -> tuple[Tensor, Tensor]:
    """Return both logits as the method compares them."""
    if not params["standardize_logits"]:
        return student, teacher
    return losses.standardized(student), losses.standardized(teacher)


def _mixup(student: Tensor, teacher: Tensor | None, labels: Tensor, params: Params, progress: float) -> Terms:
    assert teacher is not None
    return {"kd": losses.kd(student, teacher, params["temperature"])}


def _dkd(student: Tensor, teacher: Tensor | None, labels: Tensor, params: Params, progress: float) -> Terms:
    assert teacher is not None
    warmth = min(progress / params["warmup"], 1.0) if params["warmup"] else 1.0
    temperature, pair = params["temperature"], _standardized(student, teacher, params)
    return {
        "ce": losses.cross_entropy(student, labels, params["label_smoothing"]),
        "tckd": warmth * params["alpha"] * losses.tckd(*pair, labels, temperature),
        "nckd": warmth * params["beta"] * losses.nckd(*pair, labels, temperature),
    }


def _dist(student: Tensor, teacher: Tensor | None, labels: Tensor, params: Params, progress: float) -> Terms:
    assert teacher is not None
    inter, intra = losses.dist(student, teacher, params["temperature"])
    return {
        "ce": losses.cross_entropy(student, labels, params["label_smoothing"]),
        "inter": params["beta"] * inter,
        "intra": params["gamma"] * intra,
    }


def _wttm(student: Tensor, teacher: Tensor | None, labels: Tensor, params: Params, progress: float) -> Terms:
    assert teacher is not None
    return {
        "ce": losses.cross_entropy(student, labels, params["label_smoothing"]),
        "wttm": params["beta"] * losses.wttm(student, teacher, params["temperature"]),
    }


def _dml(student: Tensor, peer: Tensor | None, labels: Tensor, params: Params, progress: float) -> Terms:
    assert peer is not None
    tilt = params["handover"] * (1 - 2 * progress)
    return {
        "ce": (1 - tilt) * losses.cross_entropy(student, labels, params["label_smoothing"]),
        "kl": (1 + tilt) * params["alpha"] * losses.kd(student, peer, params["temperature"]),
    }


def _attention(student: Sequence[Tensor], teacher: Sequence[Tensor], params: Params) -> Terms:
    each = [losses.attention_transfer(*pair) for pair in zip(student, teacher, strict=True)]
    return {"attention": params["beta"] * reduce(operator.add, each)}


Known = dict[str, tuple[float, Interval | Switch]]
SMOOTHING: Known = {"label_smoothing": (0.0, SHARE)}
MIXING: Known = {"mixup_alpha": (0.0, NON_NEGATIVE)}
# The z-scores of both logits are compared (Sun et al. 2024), with a temperature of about 2.
STANDARDIZING: Known = {"standardize_logits": (0.0, Switch())}
METHODS: dict[str, Method] = {
    "ce": Method("cross-entropy on the labels, no teacher", _ce, SMOOTHING | MIXING, needs_teacher=False),
    "vkd": Method(
        "(1 − α)·CE + α·T²·KL to the teacher (Hinton et al. 2015)",
        _vkd,
        {"alpha": (0.9, SHARE), "temperature": (4.0, POSITIVE)} | SMOOTHING | MIXING | STANDARDIZING,
        later=frozenset(STANDARDIZING),
    ),
    "mixup": Method(
        "function matching: T²·KL to the teacher on the same mixed images, no labels (Beyer et al. 2022)",
        _mixup,
        # mix_logits: the teacher's logits of the two plain images are mixed instead, as in the study paper's code.
        {"temperature": (1.0, POSITIVE), "mixup_alpha": (1.0, POSITIVE), "mix_logits": (0.0, Switch())},
    ),
    "dkd": Method(
        "CE + α·TCKD + β·NCKD, warmed up over the first `warmup` of the training (Zhao et al. 2022)",
        _dkd,
        {
            "alpha": (1.0, NON_NEGATIVE),
            "beta": (8.0, NON_NEGATIVE),
            "temperature": (4.0, POSITIVE),
            "warmup": (20 / 240, SHARE),
        }
        | SMOOTHING
        | MIXING
        | STANDARDIZING,
        by_share="warmup",
        later=frozenset(STANDARDIZING),
    ),
    "dml": Method(
        "two students teach each other: CE + α·T²·KL to the peer, the better one is kept (Zhang et al. 2017)",
        _dml,
        # handover h: CE weighs 1 − h(1 − 2x) and KL α(1 + h(1 − 2x)) at share x of the training. With h = 1 it
        # starts with KL alone and ends with CE alone; the mean weights are those of h = 0.
        {"alpha": (1.0, NON_NEGATIVE), "temperature": (1.0, POSITIVE), "handover": (0.0, SHARE)} | SMOOTHING | MIXING,
        needs_teacher=False,
        needs_peer=True,
        by_share="handover",
    ),
    "dist": Method(
        "CE + β·(1 − r between classes) + γ·(1 − r within each class), r of Pearson (Huang et al. 2022)",
        _dist,
        {"beta": (2.0, NON_NEGATIVE), "gamma": (2.0, NON_NEGATIVE), "temperature": (4.0, POSITIVE)}
        | SMOOTHING
        | MIXING,
    ),
    "wttm": Method(
        "CE + β·U·KL of the student at temperature 1 to the teacher at T, U its weight (Zheng and Yang 2024)",
        _wttm,
        # Their table 8, ResNet-56 to ResNet-20 on CIFAR-100: β = 1.5, γ = 1 / T = 0.3; of other pairs β is 1.4 to 16.
        {"beta": (1.5, NON_NEGATIVE), "temperature": (3.3, POSITIVE)} | SMOOTHING | MIXING,
        perfect=lambda logits_teacher, params: logits_teacher / params["temperature"],
    ),
    "attention": Method(
        "CE + β·the squared distance of attention maps at the ends of stages (Zagoruyko and Komodakis 2017)",
        _ce,
        {"beta": (1000.0, NON_NEGATIVE)} | SMOOTHING | MIXING,
        feature_loss=_attention,
    ),
}


def register_method(name: str, method: Method) -> None:
    """Add a method, from a plugin. Raises UserError for a name that is taken."""
    if "mixup_alpha" not in method.params:
        raise UserError(f"method {name!r}: every method has the parameter mixup_alpha; add MIXING to its params")
    plugins.add("method", METHODS, name, method, "kdq.conformance.methods")


@dataclass(frozen=True, slots=True)
class MethodConfig:
    """A method with exactly its parameters. Raises UserError for a name or value that is not allowed."""

    name: str
    params: Params

    def __post_init__(self) -> None:
        expected = _method(self.name).params
        if missing := expected.keys() - self.params.keys():
            raise UserError(f"method {self.name!r} lacks {', '.join(sorted(missing))}")
        for name, value in self.params.items():
            if name not in expected:
                raise unknown(f"parameter of method {self.name!r}", name, expected)
            check_number(name, value, expected[name][1], f"method {self.name!r}")

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> MethodConfig:
        """Parse `{"method": NAME, PARAMETER: number, …}`.

        Missing parameters take the method's defaults; those of other methods are dropped, so two documents that
        describe the same training are equal. Raises UserError naming the value, the rule and the remedy.
        """
        if "method" not in document:
            raise UserError(f"method: is required but missing; known: {', '.join(METHODS)}")
        name, given = document["method"], {key: document[key] for key in document if key != "method"}
        method = _method(name)
        for key in given:
            if key not in parameters():
                raise unknown("parameter", key, parameters())
        params = {key: given.get(key, default) for key, (default, _) in method.params.items()}
        for key, (_, allowed) in method.params.items():
            check_number(key, params[key], allowed, f"method {name!r}")
        return cls(name, {key: float(value) for key, value in params.items()})

    @property
    def method(self) -> Method:
        return METHODS[self.name]

    @property
    def compares_features(self) -> bool:
        """Whether the teacher has to run for every student, since outputs of its inner layers are compared."""
        return self.method.feature_loss is not None

    @property
    def mixes_logits(self) -> bool:
        """Whether the teacher receives the two plain parts of a mixed view and its logits are mixed."""
        return bool(self.params.get("mix_logits"))

    @property
    def teacher_mixup_alpha(self) -> float:
        """The `mixup_alpha` of the views that the teacher receives."""
        return 0.0 if self.mixes_logits else self.params["mixup_alpha"]

    @property
    def looks_ahead(self) -> bool:
        """Whether the first epochs of a longer training would differ."""
        return bool(self.method.by_share and self.params[self.method.by_share])

    def identity(self) -> dict[str, str | float]:
        """Return the document that `parse` reads back into an equal configuration: the name and its parameters."""
        return {"method": self.name, **identifying(self.name, self.params)}


def parameters() -> frozenset[str]:
    """Return the names of all parameters of all methods."""
    return frozenset(key for method in METHODS.values() for key in method.params)


COMMON = ("alpha", "beta", "temperature", "mixup_alpha")
"""The parameters that studies usually vary: names and tables always show them. The others are options."""


def identifying(name: str, params: Params) -> dict[str, float]:
    """Return a method's parameters without those of `Method.later` that have their default."""
    if name not in METHODS:
        return dict(params)
    later, known = METHODS[name].later, METHODS[name].params
    return {key: value for key, value in params.items() if key not in later or value != known[key][0]}


def options(name: str, params: Mapping[str, Any]) -> dict[str, float]:
    """Return a method's options that differ from their defaults. params: values by name; other names are ignored."""
    known = METHODS[name].params if name in METHODS else {}
    given = {key: float(params[key]) for key in sorted(known) if key not in COMMON and key in params}
    return {key: value for key, value in given.items() if value != known[key][0]}


def _method(name: Any) -> Method:
    if not isinstance(name, str) or name not in METHODS:
        raise unknown("method", str(name), METHODS)
    return METHODS[name]
