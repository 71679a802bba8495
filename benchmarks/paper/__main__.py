"""The study paper's tables, figures and question, beside the same study run by this program.

    python -m benchmarks.paper

Reads `paper-cifar10.csv`, `paper-cifar100.csv` and the same with `-alphabet`, written by `python -m analysis points
--study NAME --format csv --output FILE`, from the folder of results, and writes `paper.md` and `paper-*.png` there. A
file that is not there is left out, and the page names it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.paper import figures
from benchmarks.paper.cells import FIGURE_2, Cells, check_same_students, paper, read, read_points
from benchmarks.paper.page import DataSet, page
from benchmarks.report import RESULTS
from kdq.errors import UserError
from kdq.store.files import publish

SETS = {"cifar10": ("CIFAR-10", 1, (3, 4)), "cifar100": ("CIFAR-100", 2, (5, 6))}
"""Name of a data set -> title, and the numbers of its table and figures in the paper."""

GRID_FILE = "dkd_grid-cifar10_small.csv"
GRID_BUDGET = "Trained for 3 epochs of 10,000 images, which is too short for a result about DKD"
"""The study that the file of the grid is of, as docs/results/README.md states."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status: 0, or 2 after a UserError, printed in one line."""
    options = _parser().parse_args(arguments)
    try:
        print(write(options.results))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: cannot write {error.filename or options.results}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


def write(results: Path) -> str:
    """Write the page and its figures into the folder of results; return a line on what was written and left out.

    Raises UserError if no study is there, or a file is wrong.
    """
    missing: list[str] = []
    sets = [_open(name, results, missing) for name in SETS]
    if not any(each.ours for each in sets):
        names = ", ".join(f"paper-{name}.csv" for name in SETS)
        raise UserError(f"{results}: has none of {names}; write one with python -m analysis points --output")
    drawn = _draw(sets, results, missing)
    publish(results / "paper.md", page(sets, missing, drawn).encode())
    left = f"; missing, left out: {', '.join(missing)}" if missing else ""
    return f"{results / 'paper.md'} and {len(drawn)} figures{left}"


def _open(name: str, results: Path, missing: list[str]) -> DataSet:
    title, table, numbers = SETS[name]
    ours, alphabet = (_read(results / f"paper-{name}{end}.csv", missing) for end in ("", "-alphabet"))
    if ours and alphabet:
        check_same_students(ours, alphabet)
    return DataSet(name, title, table, numbers, paper(name), ours, alphabet)


def _read(path: Path, missing: list[str]) -> Cells | None:
    if path.exists():
        return read(path)
    missing.append(path.name)
    return None


def _draw(sets: Sequence[DataSet], results: Path, missing: list[str]) -> dict[str, str]:
    """Draw the figures and return the caption of each file."""
    drawn: dict[str, str] = {}
    measured = [(each, each.ours) for each in sets if each.ours]
    figures.draw_question(measured, results / "paper-question.png")
    drawn["paper-question.png"] = "How much more than CE each distilled student loses from float, with 95 % intervals."
    if (results / GRID_FILE).exists():
        grid = read_points(results / GRID_FILE)
        figures.draw_grid(grid, FIGURE_2, results / "paper-dkd_grid.png")
        seeds = len({point.seed for point in grid})
        drawn["paper-dkd_grid.png"] = f"Figures 1 and 2: α and β of DKD, n = {seeds}. {GRID_BUDGET}."
    else:
        missing.append(GRID_FILE)
    for each, cells in measured:
        by_bits, by_size = f"paper-{each.name}-bits.png", f"paper-{each.name}-size.png"
        figures.draw_bits(each, cells, results / by_bits)
        figures.draw_size(each, cells, results / by_size)
        drawn[by_bits] = f"Figure {each.figures[0]}: accuracy against bit width, {each.title}."
        drawn[by_size] = (
            f"Figure {each.figures[1]}: accuracy against total bits, {each.title}. The paper states no total bits: its "
            "marks are at parameters × bits; its program does not count weights that are 0."
        )
    return drawn


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of results (default: docs/results)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
