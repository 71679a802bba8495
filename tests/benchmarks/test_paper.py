"""The page of the paper's study, on made-up studies whose answer is known."""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.paper import compare
from benchmarks.paper.__main__ import GRID_FILE, main, write
from benchmarks.paper.cells import CE, ROWS, TEACHER, WIDTHS, Cells, check_same_students, mean_over, paper, read
from benchmarks.paper.figures import parameters
from benchmarks.paper.page import DataSet, page
from benchmarks.paper.words import interval, number, widths
from benchmarks.report import RESULTS
from kdq.bits import FLOAT_BITS
from kdq.errors import UserError
from study.results.point import Point
from study.results.tables import to_csv

KINDS = {
    TEACHER: ("teacher", None),
    CE: ("ce", 0.0),
    "VKD": ("vkd", 0.0),
    "Mixup": ("mixup", 1.0),
    "DML": ("dml", 0.0),
    "DKD": ("dkd", 0.0),
    "DKD + mixup": ("dkd", 1.0),
}
WEIGHTS = {TEACHER: 800_000}
NOISE = (0.1, -0.2, 0.3)
"""What the seeds add to every accuracy."""

Drops = Mapping[str, Callable[[int], float]]
"""Row -> bits -> points lost from float."""


def point(row: str, bits: int, seed: int, accuracy: float, more_bits: float = 0.0) -> Point:
    method, mixup = KINDS[row]
    size = int(WEIGHTS.get(row, 250_000) * (bits + (more_bits if bits < FLOAT_BITS else 0)))
    arch = "resnet56" if row == TEACHER else "resnet20"
    trial = f"{row}-{seed}"
    return Point(trial, method, None, None, None, mixup, seed, arch, bits, bits, size, size // 8, accuracy, accuracy)


def study(drops: Drops, seeds: int = 3, at_float: Mapping[str, float] = {}, jitter: float = 0.0) -> list[Point]:
    """All rows of `drops`: 90 % at float plus the seed's noise; jitter: points that seeds differ by in their drops."""
    points = []
    for row, drop in drops.items():
        for seed in range(seeds):
            best = at_float.get(row, 90.0) + NOISE[seed]
            for bits in WIDTHS:
                lost = 0.0 if bits == FLOAT_BITS else drop(bits) + jitter * (-1) ** (seed + len(row) + bits)
                points.append(point(row, bits, seed, best - lost))
    return points


def gentle(bits: int) -> float:
    """8 points at 2 bits, half at 3, and so on."""
    return 8.0 * 2.0 ** (2 - bits)


ALIKE = dict.fromkeys(ROWS, gentle)


def cells(points: Iterable[Point], tmp_path: Path) -> Cells:
    path = tmp_path / "paper-cifar10.csv"
    path.write_text(to_csv(points))
    return read(path)


def text(ours: Cells, alphabet: Cells | None = None, missing: Iterable[str] = ()) -> str:
    return page([DataSet("cifar10", "CIFAR-10", 1, (3, 4), paper("cifar10"), ours, alphabet)], list(missing), {})


def line(page: str, start: str) -> str:
    (found,) = [each for each in page.splitlines() if each.startswith(start)]
    return found


def test_the_papers_tables_are_complete_and_have_its_best_cells():
    for dataset in ("cifar10", "cifar100"):
        found = paper(dataset)
        assert {key for key in found if "alpha" not in key[0]} == {
            (row, bits) for row in (TEACHER, "VKD", "Mixup", "DML", "DKD") for bits in WIDTHS
        }
    best = {bits: max(v for (row, b), v in paper("cifar10").items() if b == bits and row != TEACHER) for bits in WIDTHS}
    assert [best[bits] for bits in (FLOAT_BITS, 4, 3, 2)] == [95.77, 94.20, 92.63, 88.12]
    best = {
        bits: max(v for (row, b), v in paper("cifar100").items() if b == bits and row != TEACHER) for bits in WIDTHS
    }
    assert [best[bits] for bits in (FLOAT_BITS, 4, 3, 2)] == [75.33, 59.75, 47.65, 33.07]


def test_a_method_that_loses_more_by_construction_is_less_compressible(tmp_path):
    """Every distilled row loses 2 points more than CE at 2 bits, and the teacher as much as CE."""
    more = {row: (lambda bits: gentle(bits) + 2 * (bits == 2)) for row in ROWS if row not in (TEACHER, CE)}
    ours = cells(study({**ALIKE, **more}, jitter=0.01), tmp_path)
    found = compare.difference(compare.extra_drop(ours, CE, "VKD", 2))
    assert found.mean == pytest.approx(2, abs=0.03)
    assert found.n == 3
    assert found.low > 1.9
    written = text(ours)
    against_ce = line(written, "- **Distilled students against CE: ")
    assert "less compressible at 2 bits; no difference can be told at 3 and 4 bits.**" in against_ce
    assert "less compressible at 2 bits" in line(written, "- **Distilled students against the teacher at equal width")
    assert "CE against the teacher at equal width: no difference can be told at 2, 3 and 4 bits.**" in written
    first = next(each for each in written.splitlines() if each.startswith("| VKD | "))
    assert first.split(" | ")[1].startswith(("**+1.9", "**+2.0"))
    assert "**" not in first.split(" | ")[2]


def test_one_that_loses_less_is_more_compressible(tmp_path):
    less = {row: (lambda bits: gentle(bits) - 1) for row in ROWS if row not in (TEACHER, CE)}
    written = text(cells(study({**ALIKE, **less}, jitter=0.01), tmp_path))
    assert "**Distilled students against CE: more compressible at 2, 3 and 4 bits.**" in written


@pytest.mark.parametrize("jitter", [0.0, 0.3])
def test_of_equal_methods_no_difference_can_be_told(tmp_path, jitter):
    ours = cells(study(ALIKE, jitter=jitter), tmp_path)
    written = text(ours)
    assert "**Distilled students against CE: no difference can be told at 2, 3 and 4 bits.**" in written
    assert "**Distilled students against the teacher at equal width: no difference can be told at 2, 3" in written
    for row in ours.distilled:
        assert not compare.is_known(compare.difference(compare.extra_drop(ours, CE, row, 2)))
    assert compare.order(ours, 2).proved == ()
    assert "**The order of the students changes" not in written


def test_missing_cells_are_marked_with_their_n_and_left_out_of_pairs(tmp_path):
    points = study({row: gentle for row in ROWS if row != "DML"})
    points = [p for p in points if not (p.method == "vkd" and p.bits == 2 and p.seed == 2)]
    points = [p for p in points if not (p.method == "mixup" and p.bits == 3)]
    ours = cells(points, tmp_path)
    written = text(ours, missing=["paper-cifar100.csv"])
    assert "Missing files, left out: paper-cifar100.csv." in written
    assert "paper-cifar10.csv has no DML" in written
    assert "paper-cifar10.csv, VKD: of 3 seeds 2 at 2 bits" in written
    assert "paper-cifar10.csv, Mixup: of 3 seeds 0 at 3 bits" in written
    vkd, mixup = (line(written, f"| **{row}** | ours") for row in ("VKD", "Mixup"))
    assert "(n = 2)" in vkd.split(" | ")[2]
    assert written.count("(n = 2)") >= 3
    assert mixup.split(" | ")[3] == "—"
    assert compare.difference(compare.extra_drop(ours, CE, "VKD", 2)).n == 2
    assert compare.order(ours, 2).n == 2
    assert "Mixup" not in compare.order(ours, 3).rows


def test_a_single_seed_has_no_interval_and_proves_nothing(tmp_path):
    ours = cells(study({**ALIKE, "VKD": lambda bits: 5 * gentle(bits)}, seeds=1), tmp_path)
    found = compare.difference(compare.extra_drop(ours, CE, "VKD", 2))
    assert (found.mean, found.n) == (pytest.approx(32), 1)
    assert math.isnan(found.low)
    assert not found.excludes_zero
    written = text(ours)
    assert "CIFAR-10, n = 1:" in written
    assert "**Distilled students against CE: no difference can be told at 2, 3 and 4 bits.**" in written
    assert "[" not in line(written, "- **Distilled students against CE")
    assert " ± " not in line(written, "| **VKD** | ours")
    assert "| VKD | +32.00 | " in written


def test_a_difference_in_closed_form():
    """1, 2, 3: mean 2, deviation 1, and t of 2 degrees of freedom is 4.3027; the t-test's p is 0.0742."""
    found = compare.difference({0: 1.0, 1: 2.0, 2: 3.0})
    assert (found.mean, found.n) == (2, 3)
    assert found.half == pytest.approx(4.302653 / math.sqrt(3), abs=1e-6)
    assert found.p == pytest.approx(0.0741799, abs=1e-6)
    assert not found.excludes_zero
    assert compare.difference({}) is None
    constant = compare.difference({0: 1.0, 1: 1.0})
    assert (constant.mean, constant.half, constant.p) == (1, 0, 0)
    assert compare.difference({0: 0.0, 1: 0.0}).p == 1


def test_holms_adjustment_by_hand():
    """0.01 × 3; 0.03 × 2; 0.04 × 1 is below the one before, and so takes its value."""
    ps = {"a": 0.01, "b": 0.04, "c": 0.03}
    found = {name: compare.Difference(1.0, 0.5, p, 3) for name, p in ps.items()}
    adjusted = compare.holm({**found, "none": None, "single": compare.Difference(1.0, math.nan, math.nan, 1)})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_its_steps_reject(ps):
    """The definition: from the smallest on, reject while p ≤ 0.05 / (number left)."""
    rejected = set()
    for k, (p, i) in enumerate(sorted((p, i) for i, p in enumerate(ps))):
        if p * (len(ps) - k) > 0.05:
            break
        rejected.add(i)
    adjusted = compare.holm({i: compare.Difference(0.0, 0.0, p, 3) for i, p in enumerate(ps)})
    assert {i for i, p in adjusted.items() if p <= 0.05} == rejected


def test_accuracy_at_equal_total_bits_in_closed_form(tmp_path):
    """A teacher of 800,000 weights that gains 1 point an octave; students below its 2 bits have no counterpart."""
    points = [point(TEACHER, bits, 0, 80 + math.log2(bits)) for bits in WIDTHS]
    points += [point("VKD", bits, 0, 80.0) for bits in WIDTHS]
    ours = cells(points, tmp_path)
    assert compare.ahead_of_teacher(ours, "VKD", 6) == {}  # 1.5 Mbit, and the teacher at 2 bits has 1.6
    expected = -math.log2(7 * 250_000 / 800_000)
    assert compare.ahead_of_teacher(ours, "VKD", 7) == {0: pytest.approx(expected)}
    assert compare.ahead_of_teacher(ours, "VKD", FLOAT_BITS) == {0: pytest.approx(-math.log2(10))}
    assert "At 2, 3, 4, 5 and 6 bits no teacher is so small or so large." in text(ours)
    assert ours.accuracies_at(TEACHER, {0: 2 * 800_000.0, 1: 2e6}) == {0: pytest.approx(81)}


def test_an_order_that_changes_by_construction(tmp_path):
    """VKD is 2 points above CE at float and 6 below at 2 bits; at 3 bits, 2 below."""
    steep = {"VKD": lambda bits: 2 * gentle(bits), CE: gentle}
    ours = cells(study(steep, at_float={"VKD": 92.0}, jitter=0.01), tmp_path)
    found = {bits: compare.order(ours, bits) for bits in (2, 8)}
    assert found[2].rows == (CE, "VKD")
    assert found[2].proved == found[2].reversed == ((CE, "VKD"),)
    assert (found[2].tau, found[8].tau) == (-1, 1)
    assert (found[2].separated, found[8].reversed) == (1, ())
    written = text(ours)
    assert "changes with the width**, beyond the intervals, at 2 bits (CE before VKD)" in written
    assert line(written, "| 2 bits | ").split(" | ")[1:5] == ["CE > VKD", "−1.00", "1 of 1", "1 / 1"]


def test_a_reversal_within_its_intervals_proves_no_change(tmp_path):
    points = [point("VKD", b, seed, 80 + (0.1 if b == 2 else 0.0) + NOISE[seed]) for b in WIDTHS for seed in range(3)]
    points += [point(CE, b, seed, 80.05 + NOISE[-1 - seed]) for b in WIDTHS for seed in range(3)]
    found = compare.order(cells(points, tmp_path), 2)
    assert (found.reversed, found.proved) == ((("VKD", CE),), ())
    written = text(cells(points, tmp_path))
    assert "no change with the width can be told.** Pairs reversed against float, over all widths: 1, none" in written


def test_the_papers_alphabet_is_paired_on_the_same_students(tmp_path):
    """One point better at every width, and a bit a weight more: at equal bits behind by what that bit gains."""
    ours = cells(study(ALIKE, jitter=0.0), tmp_path)
    better = [
        point(row, p.bits, p.seed, p.test_top1 + (p.bits < FLOAT_BITS), more_bits=1)
        for (row, _, _), p in ours.points.items()
    ]
    alphabet = cells(better, tmp_path)
    check_same_students(ours, alphabet)
    assert compare.average([compare.gain(alphabet, ours, row, 2) for row in ROWS]).mean == pytest.approx(1)
    assert compare.gain_at_equal_bits(alphabet, ours, "VKD", 2) == dict.fromkeys(range(3), pytest.approx(1 - 4))
    written = text(ours, alphabet)
    assert "levels against ours of 2^b, at equal b: more accurate at 2, 3 and 4 bits.**" in written
    assert "at equal total bits: less accurate at 2 and 3 bits" in written
    assert "Total bits of the students, × ours: 1.50 at 2 bits" in written
    is_changed = (TEACHER, FLOAT_BITS, 0)
    other = Cells("other.csv", alphabet.points | {is_changed: point(*is_changed, 50.0)})
    with pytest.raises(UserError, match=r"Teacher, seed 0: has 90\.1 % at float .* but 50 %"):
        check_same_students(ours, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda points: [], "has no points"),
        (lambda points: [*points, point("VKD", 2, 0, 1.0)], "VKD at 2 bits, seed 0: has two points"),
        (lambda points: [p for p in points if p.bits == 1] + [point("VKD", 1, 0, 1.0)], "vkd at 1 bits: is in no row"),
    ],
)
def test_a_file_that_is_not_of_the_study(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        cells(change(study(ALIKE)), tmp_path)


def test_trials_that_share_a_point_count_once(tmp_path):
    points = study(ALIKE)
    assert cells([*points, *points[:5]], tmp_path).points == cells(points, tmp_path).points


@given(st.sets(st.tuples(st.sampled_from(ROWS), st.sampled_from(WIDTHS), st.integers(0, 2)), min_size=1))
def test_any_part_of_a_study_makes_a_page(keys):
    points = {(row, bits, seed): point(row, bits, seed, 50.0 + bits + seed) for row, bits, seed in keys}
    written = text(Cells("part", points), Cells("alphabet", points))
    assert written.startswith("# ")
    assert "nan" not in written


def test_what_is_written_and_drawn(tmp_path, capsys):
    (tmp_path / GRID_FILE).write_text((RESULTS / GRID_FILE).read_text())
    assert main(["--results", str(tmp_path)]) == 2
    assert "has none of paper-cifar10.csv, paper-cifar100.csv" in capsys.readouterr().err
    (tmp_path / "paper-cifar100.csv").write_text(to_csv(study(ALIKE, seeds=1)))
    assert main(["--results", str(tmp_path)]) == 0
    assert "missing, left out: paper-cifar10.csv, paper-cifar10-alphabet.csv" in capsys.readouterr().out
    written = (tmp_path / "paper.md").read_text()
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    names = ("cifar100-bits", "cifar100-size", "dkd_grid", "question")
    assert pictures == [f"paper-{name}.png" for name in names]
    for name in pictures:
        assert f"]({name})" in written
        with Image.open(tmp_path / name) as image:
            assert len(image.convert("RGB").getcolors(maxcolors=2**20)) > 10
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    write(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_that_cannot_be_read_is_one_line_and_status_2(tmp_path, capsys):
    (tmp_path / "paper-cifar10.csv").write_bytes(b"\xff")
    assert main(["--results", str(tmp_path)]) == 2
    (tmp_path / "paper-cifar10.csv").write_text("a,b\n")
    assert main(["--results", str(tmp_path)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert "cannot read" in errors[0]
    assert "a points table has the columns" in errors[1]


def test_words():
    assert [number(value, sign=True) for value in (1.0, -1.0, -0.001, 0.0, math.nan)] == [
        "+1.00",
        "−1.00",
        "+0.00",
        "+0.00",
        "—",
    ]
    assert interval(compare.Difference(-1.0, 0.5, 0.01, 3), 3) == "−1.00 [−1.50, −0.50]"
    assert interval(compare.Difference(1.0, 0.5, 0.01, 2), 3, is_bold=True) == "**+1.00 [0.50, 1.50]** (n = 2)"
    assert interval(None, 3) == "—"
    assert [widths(bits) for bits in ([2], [2, 3, 4], [8, 32], [7, 8, 32], [32])] == [
        "2 bits",
        "2, 3 and 4 bits",
        "8 bits and float",
        "7 and 8 bits and float",
        "float",
    ]
    assert mean_over([{0: 1.0, 1: 2.0}, {1: 4.0}]) == {1: 3.0}


def test_the_papers_networks_have_their_published_size():
    """ResNet-18 for CIFAR: 11,173,962 parameters with 10 classes, 11,220,132 with 100."""
    assert [parameters("resnet18", classes) for classes in (10, 100)] == [11_173_962, 11_220_132]
