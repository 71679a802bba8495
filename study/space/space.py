"""A space says what is searched: a method, its parameters and the bit widths, as data that every searcher reads.

One walk through the parameters serves all searchers: each parameter is drawn from the first of its declarations
whose conditions hold, given those before it. Without such a declaration it has the method's default, and one that
the method does not have is left out, so two walks that differ anywhere end in different configurations.
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
from study.schedulers.config import SchedulerConfig
from study.space.configuration import Configuration
from study.space.declaration import METHOD, TEACHER, Declaration, Value, Widths, defaults
from study.space.domains import Listed, Reals, Suggesting

DEFAULT_BITS = (2, 3, 4, 5, 6, 8)
SEARCHERS = ("grid", "random", "tpe", "nsga2")
ADAPTIVE = ("tpe", "nsga2")
"""Searchers that decide what comes next by what came before."""

PATIENCE = 1000  # draws in a row that were all drawn before
LISTABLE = 100_000  # configurations that are listed to find those not drawn yet


@dataclass(frozen=True, slots=True)
class Space:
    """What a YAML file under search_spaces/ says, once `load_space` has found no mistake in it.

    params: the declarations of each parameter, the method first and each parameter after those its conditions
    look at; bits: what a trial may be quantized at: one entry, the sweep of every trial, unless bits are an axis of
    the search; trials: how many configurations are drawn, of a grid at most so many.
    """

    description: str
    params: Mapping[str, tuple[Declaration, ...]]
    bits: tuple[Widths, ...] = (DEFAULT_BITS,)
    searcher: str = "grid"
    trials: int | None = None
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)

    def declaration(self, name: str, values: Mapping[str, Value]) -> Declaration | None:
        """What a parameter is drawn from, given the values before it; None if the method does not have it."""
        if name != METHOD and name not in defaults(values[METHOD]):
            return None
        taken = next((one for one in self.params[name] if one.holds(values)), None)
        return taken or Declaration("", Listed((defaults(values[METHOD])[name],)))

    @property
    def looked_at(self) -> tuple[str, ...]:
        """The method and the parameters that conditions look at, in order."""
        wanted = {METHOD, *(key for several in self.params.values() for one in several for key in one.when)}
        return tuple(name for name in self.params if name in wanted)

    def cases(self) -> Iterator[dict[str, Value]]:
        """The values of what conditions look at, in every combination: in each, all conditions are decided."""
        return self._assignments(self.looked_at, {})

    def _assignments(self, names: Sequence[str], values: dict[str, Value]) -> Iterator[dict[str, Value]]:
        """Every way to go on from `values` by values for `names`, the last changing fastest."""
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
        """How many configurations there are: counted case by case, not listed; infinity if a range is drawn from."""
        return len(self.bits) * sum(self._ways(values) for values in self.cases())

    def _ways(self, values: Mapping[str, Value]) -> float:
        """The number of configurations in one case."""
        rest = [self.declaration(name, values) for name in self.params if name not in values]
        return prod(one.domain.size for one in rest if one)

    @property
    def too_many(self) -> str:
        """What to say to who draws more configurations than there are."""
        there_are = f"the space has {self.size} configurations"
        return f"{there_are}; ask for at most so many, or for all of them by searcher: grid"

    @property
    def is_finite(self) -> bool:
        return self.size < inf

    def __len__(self) -> int:
        assert self.is_finite
        return int(self.size)

    def __iter__(self) -> Iterator[Configuration]:
        """Every configuration once, in the order of the file, the last parameter changing fastest, then the bits."""
        assert self.is_finite
        for values in self._assignments(tuple(self.params), {}):
            for bits in self.bits:
                yield self._configuration(values, bits)

    def sample(self, rng: Random) -> Configuration:
        """One configuration at random: every parameter from its domain, given those before it."""
        return self._walk(lambda declaration: declaration.domain.at(rng.random()))

    def suggest(self, trial: Suggesting) -> Configuration:
        """The configuration that an Optuna trial chooses: it is asked for the parameters that exist, and no others."""
        return self._walk(lambda declaration: declaration.domain.suggest(trial, declaration.label))

    def _walk(self, draw: Callable[[Declaration], Any]) -> Configuration:
        values: dict[str, Value] = {}
        for name in self.params:
            if declaration := self.declaration(name, values):
                values[name] = draw(declaration)
        return self._configuration(values, draw(Declaration("bits", Listed(self.bits))))

    def _configuration(self, values: Mapping[str, Value], bits: Widths) -> Configuration:
        axis = len(self.bits) > 1
        if values[METHOD] == TEACHER:
            return Configuration(TEACHER, {}, bits, axis)
        config = MethodConfig.parse(values)
        return Configuration(config.name, config.params, bits, axis)

    def samples(self, seed: int, count: int) -> list[Configuration]:
        """The first `count` different configurations of a random search; a longer one begins with the same.

        Raises UserError if there are fewer.
        """
        if count > self.size:
            raise UserError(f"trials = {count}: {self.too_many}")
        return list(islice(self._draws(Random(seed)), count))

    def _draws(self, rng: Random) -> Iterator[Configuration]:
        """Configurations at random, each once; what is left when nothing new turns up comes in random order."""
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
        """Everything that decides what is searched and how, as the YAML of a file could say it."""
        bits = [list(widths) for widths in self.bits]
        return {
            "params": {name: [one.document() for one in several] for name, several in self.params.items()},
            "order": list(self.params),
            "bits": bits[0] if len(bits) == 1 else {"grid": bits},
            "searcher": self.searcher,
            "trials": self.trials,
            "scheduler": asdict(self.scheduler),
        }
