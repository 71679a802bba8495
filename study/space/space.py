"""A space: the method, its parameters and the bit widths that a study searches, as data for every searcher.

All searchers walk through the parameters in the same way. A parameter is drawn from the first of its declarations
whose conditions hold, given the parameters before it; if none holds, it has the method's default. Parameters that the
method does not have are left out, so walks that differ anywhere lead to different configurations.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from math import inf, prod
from random import Random
from typing import Any

from kdq.distill.methods import MethodConfig
from kdq.errors import UserError
from kdq.store.stage import Json
from study.results.objective import TOP1
from study.results.point import TEACHER
from study.schedulers.config import SchedulerConfig
from study.space.configuration import Configuration
from study.space.declaration import METHOD, Declaration, Value, Widths, defaults
from study.space.domains import Listed, Reals, Suggesting, plain
from study.space.searchers import is_adaptive

DEFAULT_BITS = (2, 3, 4, 5, 6, 8)
BITS = "bits"  # Optuna's name for the widths

PATIENCE = 1000  # draws in a row that yield nothing new
LARGEST = 100_000  # trials of a study
LISTABLE = 100_000  # the most configurations that are enumerated to find those not drawn yet


@dataclass(frozen=True, slots=True)
class Space:
    """The valid content of a YAML file under search_spaces/.

    params: the declarations of each parameter, the method first, and each parameter after those that its conditions
    refer to; bits: the widths of a trial, several entries if bits are searched; trials: the number of configurations
    to draw, for a grid the maximum; ema_epochs: the epochs over which weights are averaged, None for the workload's
    own `train.ema`; objective: the name of the metric that decides, one of `study.results.objective.OBJECTIVES`.
    """

    description: str
    params: Mapping[str, tuple[Declaration, ...]]
    bits: tuple[Widths, ...] = (DEFAULT_BITS,)
    searcher: str = "grid"
    trials: int | None = None
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    ema_epochs: float | None = None
    objective: str = TOP1

    def declaration(self, name: str, values: Mapping[str, Value]) -> Declaration | None:
        """Return the declaration that applies, given the values before it; None if the method lacks the parameter."""
        if name != METHOD and name not in defaults(values[METHOD]):
            return None
        taken = next((one for one in self.params[name] if one.holds(values)), None)
        return taken or Declaration("", Listed((defaults(values[METHOD])[name],)))

    @property
    def varying(self) -> tuple[str, ...]:
        """The method and the parameters that have more than one value in the space, in order."""
        found = {name: [one.domain for one in several] for name, several in self.params.items()}
        return tuple(name for name, domains in found.items() if len(set(domains)) > 1 or domains[0].size > 1)

    @property
    def is_adaptive(self) -> bool:
        return is_adaptive(self.searcher)

    @property
    def looked_at(self) -> tuple[str, ...]:
        """The method and the parameters that conditions refer to, in order."""
        wanted = {METHOD, *(key for several in self.params.values() for one in several for key in one.when)}
        return tuple(name for name in self.params if name in wanted)

    def cases(self) -> Iterator[dict[str, Value]]:
        """Yield every combination of values that conditions refer to; each combination decides all conditions."""
        return self._assignments(self.looked_at, {})

    def _assignments(self, names: Sequence[str], values: dict[str, Value]) -> Iterator[dict[str, Value]]:
        """Yield every extension of `values` by values for `names`, the last changing fastest."""
        if not names:
            yield values
        elif declaration := self.declaration(names[0], values):
            assert not isinstance(declaration.domain, Reals)
            for value in declaration.domain.values:
                yield from self._assignments(names[1:], {**values, names[0]: value})
        else:
            yield from self._assignments(names[1:], values)

    @property
    def size(self) -> float:
        """The number of configurations, counted case by case, not enumerated; infinite if a range is drawn from."""
        return len(self.bits) * sum(self._ways(values) for values in self.cases())

    def _ways(self, values: Mapping[str, Value]) -> float:
        """Return the number of configurations in one case."""
        rest = [self.declaration(name, values) for name in self.params if name not in values]
        return prod(one.domain.size for one in rest if one)

    @property
    def count(self) -> float:
        """The number of configurations that a search tries at most; infinity for a grid with a range."""
        return min(self.size, self.trials or inf)

    @property
    def shortage(self) -> str:
        """The message for a search that ends since every configuration was tried, before its number of trials."""
        if (self.trials or 0) <= self.size:
            return ""
        return f"the space has {self.size} configurations in all, each tried once, fewer than trials = {self.trials}"

    @property
    def too_many(self) -> str:
        """The message for a draw of more configurations than exist."""
        return f"the space has {self.size} configurations; ask for at most that many, or for all by searcher: grid"

    @property
    def is_finite(self) -> bool:
        return self.size < inf

    def __len__(self) -> int:
        assert self.is_finite
        return int(self.size)

    def __iter__(self) -> Iterator[Configuration]:
        """Yield every configuration once in the order of the file; bits change fastest, then the last parameter."""
        assert self.is_finite
        for values in self._assignments(tuple(self.params), {}):
            for bits in self.bits:
                yield self._configuration(values, bits)

    def sample(self, rng: Random) -> Configuration:
        """Return a random configuration: every parameter from its domain, given those before it."""
        return self._walk(lambda _, declaration: declaration.domain.at(rng.random()))

    def suggest(self, trial: Suggesting) -> Configuration:
        """Return the configuration that an Optuna trial suggests; only parameters that exist are suggested."""
        return self._walk(lambda _, declaration: declaration.domain.suggest(trial, declaration.label))

    def choices(self, configuration: Configuration) -> dict[str, Any]:
        """Return the suggestions that lead to a configuration of this space, by Optuna's names."""
        values = {METHOD: configuration.method, **configuration.parameters, BITS: configuration.bits}
        found: dict[str, Any] = {}

        def draw(name: str, declaration: Declaration) -> Any:
            if declaration.domain.size > 1:
                found[declaration.label] = plain(values[name])
            return values[name]

        self._walk(draw)
        return found

    def _walk(self, draw: Callable[[str, Declaration], Any]) -> Configuration:
        """Return the configuration of the values that `draw` returns for the name and declaration of each."""
        values: dict[str, Value] = {}
        for name in self.params:
            if declaration := self.declaration(name, values):
                values[name] = draw(name, declaration)
        return self._configuration(values, draw(BITS, Declaration(BITS, Listed(self.bits))))

    def _configuration(self, values: Mapping[str, Value], bits: Widths) -> Configuration:
        axis = len(self.bits) > 1
        if values[METHOD] == TEACHER:
            return Configuration(TEACHER, {}, bits, axis)
        config = MethodConfig.parse(values)
        return Configuration(config.name, config.params, bits, axis)

    def samples(self, seed: int, count: int) -> list[Configuration]:
        """Return the first `count` distinct configurations of a random search; a longer search starts with the same.

        Raises UserError if fewer exist.
        """
        if count > self.size:
            raise UserError(f"trials = {count}: {self.too_many}")
        return list(islice(self._draws(Random(seed)), count))

    def _draws(self, rng: Random) -> Iterator[Configuration]:
        """Yield random configurations, each once; when draws yield nothing new, the rest follows in random order."""
        drawn: set[str] = set()
        repeats = 0
        while repeats < PATIENCE or self.size > LISTABLE:
            one = self.sample(rng)
            repeats = repeats + 1 if one.identity in drawn else 0
            if not repeats:
                drawn.add(one.identity)
                yield one
        left = [one for one in self if one.identity not in drawn]
        yield from sorted(left, key=lambda _: rng.random())

    def document(self) -> dict[str, Json]:
        """Return everything that determines the search, as in a YAML file; `ema_epochs` determines the recipe."""
        bits = [list(widths) for widths in self.bits]
        scheduler = asdict(self.scheduler)
        if scheduler["by"] == "trial":
            del scheduler["by"]
        return {
            "params": {name: [one.document() for one in several] for name, several in self.params.items()},
            "order": list(self.params),
            "bits": bits[0] if len(bits) == 1 else {"grid": bits},
            "searcher": self.searcher,
            "trials": self.trials,
            "scheduler": scheduler,
            **({"objective": self.objective} if self.objective != TOP1 else {}),
        }
