"""`compare`: two studies, or two configurations of one, at each width and by their hypervolumes."""

import argparse
from typing import TYPE_CHECKING, Any

from analysis.commands.command import Once, open_options
from kdq.errors import UserError

if TYPE_CHECKING:
    from analysis.comparison import Comparison, Side
    from analysis.formats import Report
    from analysis.results import Results

NAME, PURPOSE = "compare", "compare two studies, or two configurations of one, on the same images and seeds"
FORMATS: tuple[str, ...] = ("table", "csv", "json", "markdown", "latex")
COLUMNS = ("bits", "a", "b", "n_a", "n_b", "difference", "low", "high", "over_seeds", "verdict")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("a", metavar="A", help="name of a study, or settings such as method=dkd,alpha=1")
    add("b", metavar="B", help="what to compare it with")
    help_ = "the study whose configurations are compared, where A or B are settings"
    add("--study", action=Once, metavar="NAME", help=help_)


def run(options: argparse.Namespace) -> "Report":
    from analysis.comparison import common_scale, compare
    from analysis.formats import Report
    from analysis.results import no_points
    from analysis.volumes import common_objective
    from kdq.bits import bits_name

    a, b = _sides(options)
    found = compare(a, b)
    rows = [_row(each) for each in found]
    display = [
        {"": each.bits if each.bits == "hypervolume" else bits_name(each.bits), **_shown(each, a, b)} for each in found
    ]
    named = common_scale(a, b)
    notes = [f"hypervolume: {named.definition}"] if named and rows else []
    decides = common_objective([a.results, b.results])
    if rows and not a.results.study.has_images_of(b.results.study):
        notes.append("no intervals: the studies do not have the same validation images")
    head = (
        f"A: {a.name}\nB: {b.name}\nvalidation {decides.title} ({decides.unit}) of the best configuration at each width"
    )
    pointless = [f"{each.name}: {no_points([each.results])}" for each in (a, b) if not each.groups]
    empty = "\n".join(pointless) or "no width in common"
    return Report(COLUMNS, rows, notes, display=display, head=head, empty=empty)


def _sides(options: argparse.Namespace) -> "tuple[Side, Side]":
    from analysis.comparison import side
    from analysis.results import read

    if options.a == options.b:
        raise UserError(f"{options.a!r} and {options.b!r} are the same: compare two different ones")
    store = open_options(options)
    names = [name for name in (options.a, options.b) if "=" not in name]
    known: dict[str, Results] = {each.name: each for each in read(store, names)}
    own = known.get(options.study) or (read(store, [options.study])[0] if options.study else None)
    return side(options.a, own, known), side(options.b, own, known)


def _row(each: "Comparison") -> dict[str, Any]:
    interval = each.difference
    row = {"bits": each.bits, "a": each.a, "b": each.b, "n_a": each.n_a, "n_b": each.n_b}
    row["difference"] = each.a - each.b
    if interval:
        row |= {"low": interval.low, "high": interval.high, "over_seeds": interval.over_seeds}
    return {**row, "verdict": _verdict(each)}


def _verdict(each: "Comparison") -> str:
    if each.difference is None:
        return "unknown"
    if not each.difference.excludes_zero:
        return "no difference"
    return "A is better" if (each.difference.low > 0) == each.measured.is_higher_better else "B is better"


def _shown(each: "Comparison", a: "Side", b: "Side") -> dict[str, Any]:
    from study.results.objective import TOP1

    interval, number = each.difference, each.measured.number
    ends = f"[{number(interval.low, '+')}, {number(interval.high, '+')}]" if interval else None
    over_both = "images and seeds" if each.measured.name == TOP1 else "seeds"
    over = None if interval is None else over_both if interval.over_seeds else "images"
    means = {"A": number(each.a), "B": number(each.b), "A − B": number(each.a - each.b, "+")}
    cells = {**means, "95 % interval": ends, "over": over}
    return {**cells, "verdict": _verdict(each)}
