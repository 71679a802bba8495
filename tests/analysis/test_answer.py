"""Answers of studies made by hand: what is best, what cannot be told from it, what is recommended."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from analysis.__main__ import main
from analysis.answer import Budget, answer
from analysis.answer_report import _without, report
from analysis.results import Results
from analysis.stored import StoredStudy, Trial
from kdq.errors import UserError
from study.results.point import Point
from study.results.status import TrialStatus

IMAGES = 240


class Shelf:
    """A store with one study in memory."""

    def __init__(self, measured):
        self.runs = {point: str(number) for number, point in enumerate(measured)}
        self.vectors = {self.runs[point]: vector for point, vector in measured.items() if vector is not None}

    def points(self, study):
        return self.runs

    def correct(self, study, part):
        return self.vectors

    def trials(self, study):
        return []

    def artifacts(self, run):
        return []


def measured(bits, wrong, alpha=1.0, seed=0, images=True):
    """A point that has these images wrong, and its vector."""
    correct = ~np.isin(np.arange(IMAGES), list(wrong))
    accuracy = 100 * float(correct.mean())
    trial, size = f"a{alpha:g}-s{seed}", 250_000 * bits
    sizes = (float(bits), size, size // 8 + 300)
    point = Point(trial, "dkd", alpha, 8.0, 4.0, None, seed, "resnet8", bits, *sizes, accuracy, accuracy)
    return point, correct if images else None


def results(*points):
    return Results(Shelf(dict(points)), StoredStudy("made", "1", "completed", "run"))


def test_one_of_240_images_is_no_difference_and_the_smaller_is_recommended():
    """As the study of the embedded digits, which would pick 3 bits for one image."""
    found = answer(results(measured(2, range(6)), measured(3, range(5))), Budget(max_bits=1e6))
    assert (found.best.bits, found.recommended.bits) == (3, 2)
    assert (found.images, found.runner_up.group.bits) == (IMAGES, 2)
    assert found.runner_up.difference.value == pytest.approx(-100 / IMAGES)
    assert found.runner_up.is_alike
    assert [rival.group.bits for rival in found.alike] == [2]


def test_many_images_are_a_difference_and_the_best_is_recommended():
    found = answer(results(measured(2, range(60)), measured(3, range(5))), Budget(max_bits=1e6))
    assert found.recommended is found.best
    assert not found.runner_up.is_alike
    assert found.alike == []


def test_of_many_alike_the_smallest_is_recommended_and_of_one_size_the_most_accurate():
    points = [measured(2, range(90)), measured(3, range(7)), measured(3, range(6), alpha=2.0), measured(8, range(5))]
    found = answer(results(*points), Budget(max_bits=1e9))
    assert (found.best.bits, found.recommended.bits, found.recommended.points[0].alpha) == (8, 3, 2.0)
    assert [rival.group.mean("val_top1") for rival in found.rivals] == sorted(
        (rival.group.mean("val_top1") for rival in found.rivals), reverse=True
    )


def test_a_configuration_off_the_front_is_not_recommended():
    """Of one size, the more accurate one is told from the best, the less accurate one is not: other images fail."""
    best, near = measured(8, range(20)), measured(2, range(32))  # the same images and more
    far = measured(2, range(200, 233), alpha=2.0)
    found = answer(results(best, near, far), Budget(max_bits=1e9))
    assert [rival.is_alike for rival in found.rivals] == [False, True]
    assert found.recommended is found.best


def test_the_order_of_points_does_not_matter():
    points = [
        measured(bits, range(wrong), alpha) for bits in (2, 3, 4) for wrong, alpha in ((5, 1.0), (5, 2.0), (9, 3.0))
    ]
    one, other = (answer(results(*some), Budget(max_bits=1e9)) for some in (points, points[::-1]))
    assert (one.best, one.recommended, one.rivals) == (other.best, other.recommended, other.rivals)


def test_ties_are_named():
    found = answer(results(measured(2, range(5)), measured(3, range(5)), measured(4, range(9))), Budget(max_bits=1e9))
    assert found.best.bits == 2
    assert [group.bits for group in found.ties] == [3]


def test_a_budget_in_bytes_is_that_of_the_file():
    points = measured(2, range(9)), measured(3, range(5))
    assert answer(results(*points), Budget(max_bytes=62_800)).best.bits == 2
    assert answer(results(*points), Budget(max_bytes=94_050)).best.bits == 3
    with pytest.raises(UserError, match="no configuration has at most 62,000 packed bytes: the smallest has 62,800"):
        answer(results(*points), Budget(max_bytes=62_000))


def test_a_target_is_reached_by_the_smallest_mean_and_surely_by_the_smallest_interval():
    points = measured(2, range(60)), measured(3, range(22)), measured(4, range(2)), measured(8, range(1))
    found = answer(results(*points), Budget(target=90.0))
    assert (found.best.bits, found.recommended.bits) == (3, 4)
    assert found.interval.low < 90 < found.interval.value
    assert answer(results(*points), Budget(target=99.5)).recommended is None
    with pytest.raises(UserError, match=r"of at least 99.9 %: the best has 99.58 %"):
        answer(results(*points), Budget(target=99.9))


def test_without_images_there_is_a_best_but_no_recommendation():
    found = answer(
        results(measured(2, range(5), images=False), measured(3, range(4), images=False)), Budget(max_bits=1e9)
    )
    assert (found.best.bits, found.interval, found.images, found.recommended) == (3, None, None, None)
    assert found.runner_up.difference is None


def test_seeds_are_pairs_of_the_same_students():
    points = [measured(bits, range(wrong + seed), seed=seed) for bits, wrong in ((2, 6), (3, 5)) for seed in (0, 1, 2)]
    found = answer(results(*points), Budget(max_bits=1e9))
    assert found.best.n == 3
    assert found.interval.over_seeds
    assert found.runner_up.difference.over_seeds
    assert found.recommended.bits == 2


def test_the_text_says_why(shelf, capsys):
    assert main(["best", "--study", "normal", "--max-bits", "2.5e6", "--tracking-uri", shelf]) == 0
    text = capsys.readouterr().out
    for part in (
        "8 bits",
        "; 500,000 bits (20 %) unused",
        "% over images and seeds; 1,000 images",
        "others cannot be told from it",
        "recommended    this one: none on the front that cannot be told from it is smaller",
    ):
        assert part in text
    assert "not compared" not in text


def test_seeds_are_in_order_and_the_files_name_theirs(shelf, capsys):
    assert main(["best", "--study", "normal", "--max-bits", "1e9", "--tracking-uri", shelf]) == 0
    lines = capsys.readouterr().out.splitlines()
    trials = next(line for line in lines if line.startswith("trials "))
    assert re.findall(r"seed (\d+)", trials) == ["0", "1"]
    files = next(line for line in lines if line.startswith("files "))
    assert re.fullmatch(r"files +of seed [01], the best on validation:", files)


def test_missing_seeds_have_their_reasons(shelf, capsys):
    arguments = ["best", "--study", "lacking", "--max-bits", "1e9", "--tracking-uri", shelf]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "not compared   1 configuration without a point for every seed; trials: 1 failed" in text
    assert "dkd alpha=0.5: seed 1 failed: loss is nan | 50 % & <b>_{x}$" in text
    assert main([*arguments, "--format", "json"]) == 0
    (lacking,) = json.loads(capsys.readouterr().out)["missing"]
    assert lacking == {"configuration": "dkd alpha=0.5", "why": "seed 1 failed: loss is nan | 50 % & <b>_{x}$"}


def test_where_no_configuration_has_all_seeds_the_answer_says_so():
    """The survivors of early stopping are compared, and what they lack is no configuration that is left out."""
    study = StoredStudy("made", "1", "completed", "run", None, json.dumps({"settings": {"seeds": [0, 1]}}))
    shelf = Shelf(dict([measured(2, range(5))]))
    stopped = Trial("t", "dkd alpha=1 seed=1", TrialStatus.STOPPED, "by asha", {"alpha": "1"}, "1", 0, {})
    shelf.trials = lambda _: [stopped]
    found = Results(shelf, study)
    budget = Budget(max_bits=1e9)
    text = report(found, budget, answer(found, budget)).text
    assert "seeds          no configuration has all 2 seeds: those with the most, 1, are compared\n" in text
    assert "missing        1 configuration without a point for every seed; trials: 1 stopped\n" in text
    assert "not compared" not in text


def test_the_document_and_the_table_have_the_interval_and_the_recommendation(shelf, capsys):
    arguments = ["best", "--study", "normal", "--max-bits", "1e9", "--tracking-uri", shelf, "--format"]
    assert main([*arguments, "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["bits"], document["images"], document["compared"]) == (32, 1000, 8)
    assert document["interval"]["low"] < document["val_top1"] < document["interval"]["high"]
    assert document["recommended"]["bits"] == document["cannot_be_told_from_best"][0]["bits"]
    assert main([*arguments, "csv"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.startswith("role,configuration,bits,total_bits")
    roles = [row.split(",")[0] for row in rows]
    assert roles == ["best recommended"] + ["alike"] * len(document["cannot_be_told_from_best"])


@pytest.mark.parametrize("target", ["0", "-1", "100.1", "nan", "high"])
def test_a_target_is_a_percentage(target, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["best", "--study", "normal", f"--target-accuracy={target}"])
    assert "must be a positive number of percent, at most 100" in capsys.readouterr().err


def test_only_one_budget_is_taken(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["best", "--study", "normal", "--max-bits", "1e6", "--max-bytes", "1e6"])
    assert "not allowed with" in capsys.readouterr().err


def test_a_point_is_measured_on_its_own_images_only():
    """Points of another number of images, such as after the validation set changed, are not compared as pairs."""
    (point, vector), other = measured(2, range(5)), measured(3, range(5))
    found = answer(results((replace(point), vector[:100]), other), Budget(max_bits=1e9))
    assert found.runner_up.difference is None


def test_a_commands_own_seeds_and_widths_are_replaced():
    given = "python study/run.py --space 'my space' --seeds 0,1 --bits 2,4 --set train.lr=0.1"
    assert _without(given, "--seeds", "--bits") == "python study/run.py --space 'my space' --set train.lr=0.1"
    assert _without(given, "--seeds").count("--bits 2,4") == 1


def test_another_objective_decides_with_intervals_over_seeds(shelf, capsys):
    """The likelihoods of `by_nll` are alpha / bits for every seed, and its accuracies rise with alpha."""
    assert main(["best", "--study", "by_nll", "--max-bits", "600000", "--tracking-uri", shelf]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0].endswith("chosen on validation by negative log-likelihood")
    assert re.search(
        r"validation +nll 0\.250 nats \(± 0\.000 over 2 seeds\); 95 % interval 0\.250 to 0\.250 nats", text
    )
    assert re.search(r"runner-up +0\.500 nats \(\+0\.250 \[\+0\.250, \+0\.250\]\)", text)
    assert re.search(r"margin +0\.250 nats, interval \+0\.250 to \+0\.250: the best is better", text)
    assert "alpha=0.5" in re.search(r"configuration +(.*)", text)[1]


def test_a_target_of_a_metric_that_should_be_low_is_an_upper_limit(shelf, capsys):
    target = ["best", "--study", "by_nll", "--tracking-uri", shelf, "--target-accuracy"]
    assert main([*target, "0.3"]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0] == "smallest of by_nll with at most 0.3 nats validation negative log-likelihood"
    assert re.search(r"width +2 bits", text)
    assert main([*target, "0.01"]) == 2
    message = "error: no configuration has a mean validation negative log-likelihood of at most 0.01 nats: the best has"
    assert capsys.readouterr().err.startswith(message)


def test_studies_of_different_objectives_are_not_compared(shelf, capsys):
    assert main(["front", "--study", "by_nll", "--study", "other", "--tracking-uri", shelf]) == 2
    message = (
        "error: the studies have different objectives: nll (by_nll), top1 (other); compare studies of one objective"
    )
    assert capsys.readouterr().err == f"{message}\n"


def test_the_list_has_the_accuracy_of_the_best_by_another_objective(shelf, capsys):
    assert main(["best", "--study", "by_nll", "--max-bits", "1e9", "--format", "json", "--tracking-uri", shelf]) == 0
    best = json.loads(capsys.readouterr().out)
    assert main(["list", "--format", "json", "--tracking-uri", shelf]) == 0
    (own,) = (row for row in json.loads(capsys.readouterr().out) if row["study"] == "by_nll")
    assert own["best_val_top1"] == best["val_top1"] < 70  # others have up to 73
