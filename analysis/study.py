"""A study as a Python object: its points, trials, front and best configuration, its models, and itself in Optuna."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.answer import Answer, Budget, answer
from analysis.answer_report import command, report
from analysis.optuna_study import as_optuna
from analysis.results import Results, read
from analysis.store import open_store
from kdq.bits import Bits
from kdq.errors import UserError
from study.results.compare import Interval
from study.results.front import SeedGroup
from study.results.tables import as_table, front_table

if TYPE_CHECKING:
    import optuna
    import pandas

    from kdq.models.classifier import Classifier


@dataclass(frozen=True)
class Choice:
    """A configuration that a study found. Accuracies are means over its seeds, in percent; value: the mean of the
    study's objective, val_top1 unless it has another; command: makes it again."""

    parameters: Mapping[str, str | float]
    bits: Bits
    total_bits: float
    packed_bytes: float
    val_top1: float
    test_top1: float
    seeds: tuple[int, ...]
    command: str | None
    value: float
    group: SeedGroup


@dataclass(frozen=True)
class Best:
    """The answer of a study within a budget; printed, it is what `analysis best` prints.

    best: the best configuration; interval: of its objective, such as validation accuracy in percent, None if unknown;
    recommended: the smallest one that cannot be told from it, None if unknown; alike: how many cannot be.
    """

    best: Choice
    interval: Interval | None
    recommended: Choice | None
    alike: int
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Study:
    """A study in a tracking store, as `analysis.open` returns it; it is read again whenever it is opened again."""

    results: Results

    @property
    def name(self) -> str:
        return self.results.name

    def points(self) -> "pandas.DataFrame":
        """Return a row for each point, with the columns of `study.results.point.Point`."""
        return as_table(self.results.points)

    def trials(self) -> "pandas.DataFrame":
        """Return a row for each trial: id, name, status, reason, seed, epochs, seconds, parameters, accuracies."""
        import pandas

        rows = [
            {
                **{name: getattr(trial, name) for name in ("id", "name", "status", "reason", "seed")},
                **self.results.trainings[trial.id]._asdict(),
                **trial.parameters,
                **{f"val_top1_{bits}bit": value for bits, value in trial.accuracies.items()},
            }
            for trial in self.results.trials
        ]
        return pandas.DataFrame(rows)

    def front(self) -> "pandas.DataFrame":
        """Return the configurations on the front, smallest first: parameters, means, deviations (`_std`), seeds `n`."""
        return front_table(self.results.points)

    def best(
        self, *, max_bits: float | None = None, max_bytes: float | None = None, target_accuracy: float | None = None
    ) -> Best:
        """Return the best configuration within a budget, and the smallest that cannot be told from it.

        Exactly one of: the most total bits; the most bytes of the packed file; a mean validation accuracy in percent,
        or value of the study's objective, which the smallest configuration is to reach. Raises UserError if none fits,
        or another number of budgets.
        """
        limits = {"max_bits": max_bits, "max_bytes": max_bytes, "target_accuracy": target_accuracy}
        given = {name: limit for name, limit in limits.items() if limit is not None}
        if len(given) != 1:
            raise UserError("best: give exactly one of max_bits, max_bytes and target_accuracy")
        for name, limit in given.items():
            if not isinstance(limit, int | float):
                raise UserError(f"best: {name} = {limit!r}: must be a number, such as 2e6")
        budget = Budget(max_bits, max_bytes, target_accuracy)
        found = answer(self.results, budget)
        return self._best(found, report(self.results, budget, found).text)

    def load(self, choice: Choice) -> "Classifier":
        """Return the model of a choice's best seed, in evaluation mode on the CPU.

        Raises UserError if its file is gone, or is on a server's disk that this machine does not see.
        """
        from kdq.pack import load

        return load(self.file(choice))

    def file(self, choice: Choice) -> str:
        """Return the packed file of a choice's best seed, which `kdq.pack.load` and `python -m kdq` take."""
        return self.results.packed_file(choice.group)

    def as_optuna(self, bits: int | None = None) -> "optuna.Study":
        """Return the study as one of Optuna's, in memory, for its plots, importances and dashboard.

        Every point is an Optuna trial with the study's objective, such as validation accuracy (maximized), and total
        bits (minimized); with `bits`, every point of this width, with the former alone.
        """
        return as_optuna(self.results.points, self.name, bits)

    def _best(self, found: Answer, text: str) -> Best:
        chosen = self._choice(found.recommended) if found.recommended else None
        return Best(self._choice(found.best), found.interval, chosen, len(found.alike), text)

    def _choice(self, group: SeedGroup) -> Choice:
        return Choice(
            group.parameters,
            group.bits,
            group.mean("total_bits"),
            group.mean("packed_bytes"),
            group.mean("val_top1"),
            group.mean("test_top1"),
            tuple(sorted(point.seed for point in group.points)),
            command(self.results, group),
            group.value,
            group,
        )


def open_study(name: str, tracking_uri: str | None) -> Study:
    """Return a study by its name; see `analysis.open`."""
    return Study(read(open_store(tracking_uri), [name])[0])
