"""The declaration of a parameter in a space."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from kdq.bits import BIT_WIDTHS
from kdq.distill.methods import METHODS
from kdq.store.stage import Json
from study.results.point import TEACHER
from study.space.domains import Domain

METHOD = "method"
WHEN = "when"
LISTS = ("grid", "choice")
KINDS = ("value", *LISTS, "uniform", "loguniform", "int")
Value = str | float
Widths = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Declaration:
    """The domain of a parameter, and the conditions under which it applies.

    label: the name for Optuna: the parameter's, with the declaration's index if it has several (`alpha.1`); path: of
    the domain in the document; when: the values that other parameters must have.
    """

    label: str
    domain: Domain
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    path: str = ""

    def holds(self, values: Mapping[str, Value]) -> bool:
        """Return whether its conditions hold; a condition on an absent parameter does not hold."""
        return all(values.get(name) in allowed for name, allowed in self.when.items())

    def document(self) -> Json:
        """Return the declaration as in a YAML file."""
        conditions = {WHEN: {name: list(allowed) for name, allowed in self.when.items()}} if self.when else {}
        return {**self.domain.document(), **conditions}


def method_names() -> tuple[str, ...]:
    """Return the names of all methods."""
    return (*METHODS, TEACHER)


def defaults(method: Value) -> dict[str, float]:
    """Return the parameters of a method with their defaults; the method `teacher` has none."""
    return {name: default for name, (default, _) in METHODS[str(method)].params.items()} if method in METHODS else {}


def measured(widths: Widths) -> Widths:
    """Return the widths that are measured, sorted: float is always among them. Trials with equal ones are the same."""
    return tuple(sorted({*widths, BIT_WIDTHS[-1]}))
