"""Two studies, or two configurations of a study, compared at each width and by their hypervolumes.

At each width, the configuration of the best objective stands for its side. Differences of accuracies are paired over
the same images, and over seeds where both sides have the same parameters and seeds; those of another objective are
paired over the seeds that both sides have. Each has 95 % by itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from analysis.results import Results, by_seed
from analysis.volumes import Scale, common_objective, scale
from kdq.bits import Bits, display_order
from kdq.errors import UserError, quoted
from study.results.compare import Interval, Sample, SeedNoise, difference, paired
from study.results.front import SeedGroup, front_shares, most_valuable
from study.results.objective import OBJECTIVES, TOP1, Objective

HYPERVOLUME = "hypervolume"


@dataclass(frozen=True)
class Side:
    """A study, or the configurations of one with some settings, by the name that the user gave."""

    name: str
    results: Results
    groups: Sequence[SeedGroup]

    def at(self, bits: Bits) -> SeedGroup | None:
        """Return the configuration of the best objective at a width, None without any."""
        groups = [group for group in self.groups if group.bits == bits]
        return most_valuable(groups) if groups else None


@dataclass(frozen=True, slots=True)
class Comparison:
    """a, b: mean objectives, such as validation accuracies in percent, or hypervolumes in percent of the reference
    model's.

    bits: the width, or HYPERVOLUME; n_a, n_b: seeds; difference: a minus b, None if the images are unknown or differ,
    or, for another objective than accuracy, with fewer than two seeds or others; measured: what is compared.
    """

    bits: Bits
    a: float
    b: float
    n_a: int
    n_b: int
    difference: Interval | None
    measured: Objective = OBJECTIVES[TOP1]


def side(name: str, study: Results | None, known: Mapping[str, Results]) -> Side:
    """Return a side by its name: a study's, or settings such as `method=dkd,alpha=1` of `study`.

    Raises UserError if no configuration has the settings, or a setting is none.
    """
    if name in known:
        return Side(name, known[name], known[name].groups)
    if study is None:
        raise UserError(f"{quoted(name)}: settings such as method=dkd,alpha=1 need --study NAME")
    asked = [part.strip() for part in name.split(",")]
    if broken := [part for part in asked if not all(part.partition("="))]:
        raise UserError(f"{quoted(broken[0])}: must be a setting such as alpha=1, several joined by commas")
    groups = [group for group in study.groups if all(_has(group, part) for part in asked)]
    if not groups:
        raise UserError(f"no configuration of {study.name} that is compared has {quoted(name)}: {_known(study)}")
    return Side(name, study, groups)


def compare(a: Side, b: Side) -> list[Comparison]:
    """Return the comparison at every width that both have, then that of the hypervolumes, if both have points."""
    widths = {group.bits for group in a.groups} & {group.bits for group in b.groups}
    noise = a.results.noise if a.results is b.results else a.results.noise | b.results.noise
    pairs = [(bits, a.at(bits), b.at(bits)) for bits in sorted(widths, key=display_order)]
    found = [_at(bits, (a, first), (b, second), noise) for bits, first, second in pairs if first and second]
    named = common_scale(a, b)
    return [*found, _volumes(a, b, named)] if named and a.groups and b.groups else found


def common_scale(a: Side, b: Side) -> Scale | None:
    """Return the scale of the hypervolumes: the range of sizes of both sides, and their common reference model."""
    studies = [a.results] if a.results is b.results else [a.results, b.results]
    return scale(studies, [*a.groups, *b.groups])


def _at(bits: Bits, a: tuple[Side, SeedGroup], b: tuple[Side, SeedGroup], noise: SeedNoise) -> Comparison:
    (side_a, group_a), (side_b, group_b) = a, b
    decides = common_objective([side_a.results, side_b.results])
    if decides.name == TOP1:
        samples = side_a.results.sample(group_a), side_b.results.sample(group_b)
        interval = _difference(side_a, side_b, samples, noise)
    else:
        interval = _over_seeds(a, b)
    return Comparison(bits, group_a.value, group_b.value, group_a.n, group_b.n, interval, decides)


def _over_seeds(a: tuple[Side, SeedGroup], b: tuple[Side, SeedGroup]) -> Interval | None:
    """Return the difference of objectives, paired over seeds; None if the seeds or the images differ."""
    (side_a, group_a), (side_b, group_b) = a, b
    pairs = list(zip(by_seed(group_a), by_seed(group_b), strict=False))
    same = group_a.n == group_b.n > 1 and all(first.seed == second.seed for first, second in pairs)
    if not same or not side_a.results.study.has_images_of(side_b.results.study):
        return None
    return paired([first.value - second.value for first, second in pairs])


def _volumes(a: Side, b: Side, named: Scale) -> Comparison:
    samples = _volume(a, named, "a"), _volume(b, named, "b")
    noise = SeedNoise.of(filter(None, samples))
    interval = _difference(a, b, samples, noise)
    n_a, n_b = (side.groups[0].n for side in (a, b))
    return Comparison(HYPERVOLUME, named.percent(a.groups), named.percent(b.groups), n_a, n_b, interval)


def _volume(side: Side, named: Scale, kind: str) -> Sample | None:
    """Return the hypervolume of each seed and image: the sum over the front of what each configuration adds to it.

    The front is that of the means. None if images are unknown, another metric than accuracy decides, or the
    configurations on the front have other seeds.
    """
    if named.objective.name != TOP1:
        return None
    shares = front_shares(side.groups, named.sizes)
    samples = [(side.results.sample(group), share) for group, share in shares]
    parts = [share * sample.values / named.reference.value * 100 for sample, share in samples if sample is not None]
    seeds = {tuple(sorted(point.seed for point in group.points)) for group, _ in shares}
    if len(parts) < len(shares) or len(seeds) != 1 or len({part.shape for part in parts}) != 1:
        return None
    students = tuple((*group.parameters.items(), group.bits) for group, _ in shares)
    return Sample(np.sum(parts, axis=0), kind, (students, *seeds))


def _difference(a: Side, b: Side, samples: tuple[Sample | None, Sample | None], noise: SeedNoise) -> Interval | None:
    first, second = samples
    if first is None or second is None or not a.results.study.has_images_of(b.results.study):
        return None
    return difference(first, second, noise) if first.images == second.images else None


def _has(group: SeedGroup, setting: str) -> bool:
    """Return whether a configuration has a setting, whose value may be written in another way, as 1.0 for 1."""
    if setting in group.settings:
        return True
    name, _, value = setting.partition("=")
    own = group.parameters.get(name)
    try:
        return isinstance(own, float) and float(value) == own
    except ValueError:
        return False


def _known(study: Results) -> str:
    found = sorted(set(chain.from_iterable(group.settings for group in study.groups)))
    return f"known settings: {', '.join(found)}" if found else "it has no points yet"
