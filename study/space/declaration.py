"""What a space declares of one parameter."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from kdq.bits import BIT_WIDTHS
from kdq.distill.methods import METHODS
from kdq.store.stage import Json
from study.space.domains import Domain

TEACHER = "teacher"
"""The method of a trial that distills nothing: the teacher itself is quantized."""

METHOD_NAMES = (*METHODS, TEACHER)
METHOD = "method"
WHEN = "when"
LISTS = ("grid", "choice")
KINDS = ("value", *LISTS, "uniform", "loguniform", "int")
Value = str | float
Widths = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a parameter is drawn from, under conditions.

    label: the parameter's name, with the declaration's place if it has several (`alpha.1`): Optuna knows it by
    this; path: where the domain stands in the document; when: the values that other parameters must have.
    """

    label: str
    domain: Domain
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    path: str = ""

    def holds(self, values: Mapping[str, Value]) -> bool:
        """Whether its conditions do; a parameter that is not there has no value, and fulfils none."""
        return all(values.get(name) in allowed for name, allowed in self.when.items())

    def document(self) -> Json:
        """It as a file could say it."""
        conditions = {WHEN: {name: list(allowed) for name, allowed in self.when.items()}} if self.when else {}
        return {**self.domain.document(), **conditions}


def defaults(method: Value) -> dict[str, float]:
    """The parameters that a method has, each with its default; the teacher itself has none."""
    return {name: default for name, (default, _) in METHODS[str(method)].params.items()} if method in METHODS else {}


def measured(widths: Widths) -> Widths:
    """What two trials must have in common to be one: the order does not count, and float is always measured."""
    return tuple(sorted({*widths, BIT_WIDTHS[-1]}))
