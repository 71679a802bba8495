"""The metric that decides which of two configurations of the same size is better."""

import math
from dataclasses import dataclass

PERCENT = "%"
NATS = "nats"


@dataclass(frozen=True, slots=True)
class Objective:
    """A metric on validation images by which searchers, fronts and `best` decide.

    title: as figures and messages name it; worst: the value of a model that is worth nothing; is_higher_better;
    resolution: a difference that is worth showing on an axis, in the unit.
    """

    name: str
    title: str
    unit: str = PERCENT
    worst: float = 0.0
    is_higher_better: bool = True
    resolution: float = 5.0

    @property
    def decimals(self) -> int:
        """The digits after the point that are worth showing."""
        return 2 if self.unit == PERCENT else 3

    @property
    def most(self) -> float:
        """The largest value that is possible; the least is 0 for all."""
        return 100.0 if self.unit == PERCENT else math.inf

    @property
    def column(self) -> str:
        """The column of points that has it."""
        return f"val_{self.name}"

    @property
    def test_column(self) -> str:
        return f"test_{self.name}"

    @property
    def at_least(self) -> str:
        """The words for a value that is as good or better: `at least`, or `at most` where lower is better."""
        return "at least" if self.is_higher_better else "at most"

    def score(self, value: float) -> float:
        """Return by how much a value is better than the worst: higher is better; of an accuracy it is the accuracy."""
        return value - self.worst if self.is_higher_better else self.worst - value

    def value(self, score: float) -> float:
        """Return the value of a score."""
        return self.worst + score if self.is_higher_better else self.worst - score

    def difference(self, score: float) -> float:
        """Return the difference of two values by that of their scores."""
        return score if self.is_higher_better else -score

    def number(self, value: float, sign: str = "-") -> str:
        """Return a value without its unit. sign: "+" for a sign in any case."""
        return f"{value:{sign}.{self.decimals}f}"

    def show(self, value: float) -> str:
        """Return a value with its unit."""
        return f"{self.number(value)} {self.unit}"

    @property
    def steps(self) -> str:
        """The unit of a difference: points, short for percentage points, or the unit itself."""
        return "points" if self.unit == PERCENT else self.unit


TOP1 = "top1"
LARGEST_NLL = 10.0
"""In nats: what a uniform guess among 22,026 classes has. Fixed, so that hypervolumes can be compared."""

OBJECTIVES = {
    each.name: each
    for each in (
        Objective(TOP1, "accuracy"),
        Objective("top5", "top-5 accuracy"),
        Objective("balanced", "balanced accuracy"),
        Objective("agreement", "agreement with the teacher"),
        Objective("nll", "negative log-likelihood", NATS, LARGEST_NLL, is_higher_better=False, resolution=0.2),
        Objective("ece", "expected calibration error", PERCENT, 100.0, is_higher_better=False),
    )
}
"""By name: what `objective:` of a space may be; each is `val_` and the name among the columns of points."""
