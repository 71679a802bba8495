"""The page docs/results/paper.md. What it states of results is composed from the numbers."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, stdev

from benchmarks.paper import compare
from benchmarks.paper.cells import CE, ROWS, TEACHER, WIDTHS, Accuracies, Cells
from benchmarks.paper.compare import Difference, average, difference, holm, is_known
from benchmarks.paper.words import NOTHING, PERCENT, interval, joined, number, table, widths
from kdq.bits import FLOAT_BITS, bits_name

METHOD = Path(__file__).with_name("method.md")
"""What does not depend on results: what was different from the paper, and how to read the intervals."""

LOW = (2, 3, 4)
"""The widths that the answer is about, in bits."""

_QUANTIZED = tuple(bits for bits in WIDTHS if bits != FLOAT_BITS)

EPOCHS = "15 epochs of 45,000 images"
"""The budget of the studies that docs/results/README.md has the commands of; a points table does not record it."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set's studies, None where its file is missing, and the paper's numbers of it by (row, bits).

    alphabet: the same students on the paper's alphabet. table, figures: the numbers that they have in the paper.
    """

    name: str
    title: str
    table: int
    figures: tuple[int, int]
    paper: Mapping[tuple[str, int], float]
    ours: Cells | None
    alphabet: Cells | None


def page(sets: Sequence[DataSet], missing: Sequence[str], figures: Mapping[str, str]) -> str:
    """Return the page in Markdown. missing: names of the files that are not there; figures: file name -> caption."""
    measured = [(each, each.ours) for each in sets if each.ours]
    parts = [
        "# The study paper's question, asked again",
        _introduction([cells for each in sets for cells in (each.ours, each.alphabet) if cells], missing),
        "## The answer",
        "Distilled students: the mean of the rows that have a teacher or a peer. In brackets "
        f"{PERCENT} intervals. A verdict needs p ≤ 0.05, adjusted for the widths of its line (Holm).",
        *(f"{each.title}, n = {cells.seeds}:\n\n" + "\n".join(_answer(each, cells)) for each, cells in measured),
        *(_table(each, cells) for each, cells in measured),
        "## Figures",
        "Filled: ours, bars are one standard deviation over seeds. Hollow: the paper's.",
        *(f"![{caption.partition('.')[0]}]({name})\n\n{caption}" for name, caption in figures.items()),
        *(part for each, cells in measured for part in _comparisons(each, cells)),
        METHOD.read_text(),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _introduction(studies: Sequence[Cells], missing: Sequence[str]) -> str:
    pairs = sorted({f"{_architectures(cells, True)} → {_architectures(cells, False)}" for cells in studies})
    lines = [
        "The study paper (Gitelman et al., UC San Diego) distills a ResNet-50 into ResNet-18s, quantizes them at 2 to "
        "8 bits with GPFQ, and concludes that distilled students are less compressible at few bits. This page has its "
        "rows again, and two that it lacks: CE, a student without a teacher, and DKD with mixup. **These numbers are "
        f"of CPU size: {joined(pairs)}, {EPOCHS}.** Compare differences and directions with the paper, not levels.",
        "`python -m benchmarks.paper` writes this page and its figures from points in `paper-*.csv` and the paper's "
        "tables in `analysis/paper_tables.csv`; [README.md](README.md) has the commands of the studies. All "
        "accuracies are of the test images, as in the paper; nothing is chosen here.",
    ]
    gaps = [gap for cells in studies for gap in _gaps(cells)]
    lines += [f"Missing files, left out: {', '.join(missing)}."] if missing else []
    lines += [f"Not complete: {'; '.join(gaps)}."] if gaps else []
    return "\n\n".join(lines)


def _architectures(cells: Cells, is_teacher: bool) -> str:
    found = {point.student for (row, _, _), point in cells.points.items() if (row == TEACHER) == is_teacher}
    return "/".join(sorted(found)) or "no student"


def _gaps(cells: Cells) -> Iterator[str]:
    """Yield what a study lacks: a row, or the cells of a row with fewer seeds than the study."""
    for row in ROWS:
        counts = {bits: len(cells.accuracies(row, bits)) for bits in WIDTHS}
        if not any(counts.values()):
            yield f"{cells.name} has no {row}"
        elif few := [f"{n} at {bits_name(bits)}" for bits, n in counts.items() if n < cells.seeds]:
            yield f"{cells.name}, {row}: of {cells.seeds} seeds {', '.join(few)}"


def _answer(each: DataSet, cells: Cells) -> Iterator[str]:
    """Yield the bullets that answer the paper's question for one data set."""
    distilled, students = cells.distilled, [row for row in cells.rows if row != TEACHER]
    for title, rows, base in (
        ("Distilled students against CE", distilled, CE),
        ("Distilled students against the teacher at equal width", distilled, TEACHER),
        ("CE against the teacher at equal width", [CE], TEACHER),
    ):
        found = _by_width(LOW, rows, partial(compare.extra_drop, cells, base))
        yield _bullet(cells, title, found, ("less compressible", "more compressible"), "Further loss from float")
    ahead = _by_width(WIDTHS, distilled, partial(compare.ahead_of_teacher, cells))
    within = {bits: found for bits, found in ahead.items() if found}
    title = "Distilled students against the teacher at equal total bits"
    bullet = _bullet(cells, title, within, _ACCURATE, "Accuracy") if within else f"- **{title}: not measured.**"
    teacher, measured = TEACHER in cells.rows, {bits for row, bits, _ in cells.points if row in distilled}
    without = [bits for bits in WIDTHS if teacher and bits in measured and bits not in within]
    yield bullet + (f" At {widths(without)} no teacher is so small or so large." if without else "")
    yield f"- {_order_answer(cells)}"
    if each.alphabet:
        title = "Students on the paper's alphabet of 2^b + 1 levels against ours of 2^b"
        for how, gain in (("b", compare.gain), ("total bits", compare.gain_at_equal_bits)):
            found = _by_width(LOW, students, partial(gain, each.alphabet, cells))
            yield _bullet(cells, f"{title}, at equal {how}", found, _ACCURATE, "Accuracy")


_ACCURATE = ("more accurate", "less accurate")

Measure = Callable[[str, int], Accuracies]
"""Row, bits -> seed -> points."""


def _by_width(at: Sequence[int], rows: Sequence[str], measure: Measure) -> dict[int, Difference | None]:
    """Return the average of a measure over rows at each width."""
    return {bits: average([measure(row, bits) for row in rows]) for bits in at}


def _bullet(
    cells: Cells, title: str, found: Mapping[int, Difference | None], signs: tuple[str, str], quantity: str
) -> str:
    """Return a bullet: which widths show a difference, their p adjusted for their number, and the numbers.

    signs: what a positive and a negative difference are called.
    """
    adjusted = holm(found)
    kinds: dict[str, list[int]] = {**{sign: [] for sign in signs}, "no difference can be told": [], "not measured": []}
    for bits, each in found.items():
        if each is None:
            kinds["not measured"].append(bits)
        elif is_known(each, adjusted.get(bits)):
            kinds[signs[each.mean < 0]].append(bits)
        else:
            kinds["no difference can be told"].append(bits)
    verdict = "; ".join(f"{kind} at {widths(at)}" for kind, at in kinds.items() if at)
    numbers = [f"{bits_name(bits)} {interval(each, cells.seeds)}" for bits, each in found.items() if each]
    return f"- **{title}: {verdict}.**" + (f" {quantity}, in points: {'; '.join(numbers)}." if numbers else "")


def _order_answer(cells: Cells) -> str:
    orders = {bits: found for bits in _QUANTIZED if (found := compare.order(cells, bits))}
    if not orders:
        return "**The order of the students: not measured**, since no seed has all of them."
    taus = [f"{number(found.tau)} at {bits_name(bits)}" for bits, found in orders.items() if bits in LOW]
    text = f" Kendall's τ with the order at float: {', '.join(taus)}." if taus else ""
    reversed_ = sum(len(found.reversed) for found in orders.values())
    proved = [
        f"{bits_name(bits)} ({', '.join(f'{one} before {other}' for one, other in found.proved)})"
        for bits, found in orders.items()
        if found.proved
    ]
    if proved:
        head = f"**The order of the students changes with the width**, beyond the intervals, at {joined(proved)}."
    elif reversed_:
        head = (
            "**The order of the students: no change with the width can be told.** Pairs reversed against float, over "
            f"all widths: {reversed_}, none beyond its intervals at both."
        )
    else:
        head = "**The order of the students is the same at every width.**"
    return head + text


def _table(each: DataSet, cells: Cells) -> str:
    """Return a table of the paper beside ours."""
    note = (
        "Test accuracy in percent, mean ± standard deviation over seeds, and differences to the paper in points; "
        f"n = {cells.seeds} unless marked. The teacher is one model, whose deviation is that of the calibration images."
    )
    if each.alphabet:
        note += " On its alphabet: the same students, quantized on the paper's 2^b + 1 levels."
    rows = [line for row in cells.rows for line in _lines(each, cells, row)]
    head = ["", "", *(bits_name(bits) for bits in WIDTHS)]
    return f"## Table {each.table}: {each.title}\n\n{note}\n\n{table(head, rows)}"


def _lines(each: DataSet, cells: Cells, row: str) -> Iterator[list[str]]:
    """Yield the lines of a row: ours, the paper's and the difference, and the same for the paper's alphabet."""
    theirs = [each.paper.get((row, bits)) for bits in WIDTHS]
    is_in_paper = any(value is not None for value in theirs)
    studies = {"ours": cells, **({"on its alphabet": each.alphabet} if each.alphabet else {})}
    for name, study in studies.items():
        found = [study.accuracies(row, bits) for bits in WIDTHS]
        yield [f"**{row}**" if study is cells else "", name, *(_mean(values, study.seeds) for values in found)]
        if is_in_paper and study is cells:
            yield ["", "paper", *(NOTHING if value is None else number(value) for value in theirs)]
        if is_in_paper:
            pairs = zip(found, theirs, strict=True)
            gaps = [fmean(of.values()) - t if of and t is not None else math.nan for of, t in pairs]
            yield ["", f"{name} − paper", *(number(gap, sign=True) for gap in gaps)]


def _mean(accuracies: Accuracies, usual_n: int) -> str:
    values = list(accuracies.values())
    if not values:
        return NOTHING
    text = number(fmean(values)) + (f" ± {number(stdev(values))}" if len(values) > 1 else "")
    return text if len(values) == usual_n else f"{text} (n = {len(values)})"


def _comparisons(each: DataSet, cells: Cells) -> Iterator[str]:
    """Yield the sections on the paper's question, each with its table."""
    students = [row for row in cells.rows if row != TEACHER]
    yield f"## Who loses more: {each.title}"
    yield (
        f"Loss from float in points, minus that of CE: mean [{PERCENT} interval], paired over seeds, n = {cells.seeds} "
        "unless marked. Positive: less compressible than CE. Bold: p, adjusted for the rows of the column, is at most "
        "0.05; in the line of means, for itself alone."
    )
    yield _matrix(cells, cells.distilled, partial(compare.extra_drop, cells, CE), _QUANTIZED)
    yield "The same minus that of the teacher. In parentheses the paper's."
    measure = partial(compare.extra_drop, cells, TEACHER)
    yield _matrix(cells, students, measure, _QUANTIZED, partial(_paper_extra, each))
    yield (
        "Test accuracy minus the teacher's at the same total bits, which is interpolated between its widths on the "
        f"logarithm of total bits. {NOTHING}: no teacher is so small or so large."
    )
    yield _matrix(cells, students, partial(compare.ahead_of_teacher, cells), WIDTHS)
    yield f"## The order of the students: {each.title}"
    yield _orders(cells)
    if each.alphabet:
        yield f"## The paper's alphabet: {each.title}"
        yield from _alphabet(cells, each.alphabet)


def _alphabet(cells: Cells, alphabet: Cells) -> Iterator[str]:
    yield (
        "Test accuracy of the same students on the paper's alphabet (`gpfq_paper`, 2^b + 1 levels) minus that of "
        "`least_squares` (2^b levels), at equal b."
    )
    yield _matrix(cells, cells.rows, partial(compare.gain, alphabet, cells), _QUANTIZED)
    ratios = [f"{ratio:.2f} at {bits_name(bits)}" for bits in _QUANTIZED if (ratio := _ratio(alphabet, cells, bits))]
    yield (
        f"A code of 2^b + 1 levels is stored in b + 1 bits. Total bits of the students, × ours: {', '.join(ratios)}. "
        "The same at equal total bits, ours interpolated:"
    )
    yield _matrix(cells, cells.rows, partial(compare.gain_at_equal_bits, alphabet, cells), _QUANTIZED)


def _matrix(
    cells: Cells,
    rows: Sequence[str],
    measure: Measure,
    at: Sequence[int],
    aside: Callable[[str, int], float | None] = lambda row, bits: None,
) -> str:
    """Return a table of a measure: a line for each row, and the mean of the distilled ones."""
    found = {bits: {row: difference(measure(row, bits)) for row in rows} for bits in at}
    adjusted = {bits: holm(column) for bits, column in found.items()}
    lines = []
    for row in rows:
        line = []
        for bits in at:
            each, own_p, other = found[bits][row], adjusted[bits].get(row), aside(row, bits)
            text = interval(each, cells.seeds, is_known(each, own_p))
            line.append(text if other is None else f"{text} ({number(other, sign=True)})")
        lines.append([row, *line])
    means = _by_width(at, [row for row in rows if row in cells.distilled], measure)
    lines.append(["mean of the distilled", *(interval(m, cells.seeds, is_known(m)) for m in means.values())])
    return table(["", *(bits_name(bits) for bits in at)], lines)


def _paper_extra(each: DataSet, row: str, bits: int) -> float | None:
    """Return how much more than its teacher the paper's row loses from float to a width."""
    values = [each.paper.get(key) for key in ((row, FLOAT_BITS), (row, bits), (TEACHER, FLOAT_BITS), (TEACHER, bits))]
    return None if None in values else (values[0] - values[1]) - (values[2] - values[3])  # type: ignore[operator]


def _ratio(one: Cells, other: Cells, bits: int) -> float | None:
    """Return the total bits of `one` over those of `other`, over the students that both have at a width."""
    keys = [key for key in one.points if key in other.points and key[1] == bits and key[0] != TEACHER]
    return fmean(one.points[key].total_bits / other.points[key].total_bits for key in keys) if keys else None


def _orders(cells: Cells) -> str:
    lines = []
    for bits in WIDTHS:
        if found := compare.order(cells, bits):
            marks = [" > " if gap.excludes_zero else " ≥ " for gap in found.adjacent]
            names = "".join(name + mark for name, mark in zip(found.rows, [*marks, ""], strict=True))
            pairs, apart = f"{len(found.reversed)} / {len(found.proved)}", f"{found.separated} of {len(marks)}"
            lines.append([bits_name(bits), names, number(found.tau), apart, pairs, str(found.n)])
    if not lines:
        return "No seed has all students at any width."
    note = (
        f"Best first; > where the {PERCENT} interval of the paired difference to the next excludes 0, ≥ where it does "
        "not. τ: Kendall's τ-b with the order at float. Reversed: pairs in the opposite order at float, and those of "
        "them whose intervals exclude 0 at both widths. These intervals are not adjusted for their number."
    )
    head = ["", "order", "τ with float", "neighbours separated", "pairs reversed / beyond both intervals", "n"]
    return f"{note}\n\n{table(head, lines)}"
