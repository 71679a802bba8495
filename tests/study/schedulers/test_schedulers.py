"""The conformance suite of early stopping schedulers: whatever joins the table must pass it."""

import copy
import math
from dataclasses import dataclass, replace
from functools import cache
from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kdq.errors import UserError
from kdq.store.stage import canonical
from study.control.journal import Left, Reported, decode, encode, replay
from study.schedulers.config import SchedulerConfig
from study.schedulers.halving import survivors
from study.schedulers.priorities import PRIORITIES, dominates
from study.schedulers.registry import SCHEDULERS, by_configuration, make_scheduler, stopping
from study.schedulers.scheduler import Decision, RungConfig, below

CONTINUE, STOP, PAUSE = Decision
NAMES = sorted(stopping())
SYNCHRONOUS = [name for name in NAMES if SCHEDULERS[name].promotion == "synchronous"]
ASYNCHRONOUS = [name for name in NAMES if name not in SYNCHRONOUS]

sizes = st.sampled_from([1e5, 2e5, 4e5]) | st.floats(1e3, 1e8)
accuracies = st.sampled_from([0.0, 10.0, 50.0, 90.0, 100.0]) | st.floats(0, 100)
shows = st.lists(st.tuples(accuracies, sizes), min_size=3, max_size=3).map(tuple)


@dataclass(frozen=True)
class Race:
    """What every trial would show at each of its epochs, were it not stopped."""

    config: RungConfig
    curves: dict[str, tuple]


@st.composite
def races(draw, healthy=False):
    """Of few distinct values, so that ties and dominance are common; drawn by a seed, which is fast."""
    epochs = draw(st.integers(2, 10))
    trials = draw(st.integers(1, 9))
    config = RungConfig(epochs, trials, draw(st.integers(1, min(3, epochs - 1))), draw(st.sampled_from([2, 2.5, 3, 4])))
    random = Random(draw(st.integers(0, 2**32)))
    levels, sizes = random.choice(([0, 10, 50, 90, 100], range(1000))), random.choice(([1, 2, 4], range(1, 1000)))

    def show():
        if not healthy and random.random() < 0.03:
            return ((50.0, 1e6), (random.choice([math.nan, math.inf, -math.inf]), 1e5))
        return tuple((random.choice(levels) / 10, random.choice(sizes) * 1e5) for _ in range(3))

    return Race(config, {f"t{i}": tuple(show() for _ in range(epochs)) for i in range(trials)})


random_orders = st.integers(0, 2**32).map(Random)


def run(scheduler, race, random, journal=(), steps=10**9, failing=()):
    """Drive a scheduler as a study does, at most so many steps; returns its journal.

    Trials take turns at random. One in `failing` leaves at its second epoch. A journal is what happened before.
    """
    journal = list(journal)
    epoch = dict.fromkeys(race.curves, 0)
    waiting, over = set(), set()
    for record in journal:
        _take(record, race, epoch, waiting, over)
    while steps > 0:
        waiting -= set(scheduler.resumable())
        running = [trial for trial in race.curves if trial not in waiting | over | scheduler.stopped().keys()]
        if not running:
            break
        trial = random.choice(running)
        if trial in failing and epoch[trial] == 1:
            scheduler.leave(trial)
            journal.append(Left(trial))
        else:
            now = epoch[trial] + 1
            shown = race.curves[trial][now - 1]
            journal.append(Reported.of(trial, now, shown, scheduler.report(trial, now, shown)))
        _take(journal[-1], race, epoch, waiting, over)
        steps -= 1
    return journal


def _take(record, race, epoch, waiting, over):
    trial = record.trial
    waiting.discard(trial)
    if isinstance(record, Left):
        over.add(trial)
        return
    epoch[trial] = record.epoch
    if record.decision is Decision.PAUSE:
        waiting.add(trial)
    elif record.decision is Decision.STOP or record.epoch == race.config.epochs:
        over.add(trial)


def reports(journal):
    return [record for record in journal if isinstance(record, Reported)]


def finished(journal, race):
    return {r.trial for r in reports(journal) if r.epoch == race.config.epochs and r.decision is Decision.CONTINUE}


def has_diverged(race, trial):
    return not all(math.isfinite(n) for show in race.curves[trial] for pair in show for n in pair)


@cache
def priority_of(name):
    return make_scheduler(name, RungConfig(2, 1)).priority


# the table ----------------------------------------------------------------------------------------------------


def test_the_table_has_a_priority_where_it_has_a_promotion_and_no_rule_twice():
    pairs = [(scheduler.priority, scheduler.promotion) for scheduler in SCHEDULERS.values()]
    assert all((priority is None) == (promotion is None) for priority, promotion in pairs)
    schedulers = [pair for pair in pairs if pair != (None, None)]
    assert len(set(schedulers)) == len(schedulers) == len(stopping())
    assert not any(SCHEDULERS[name].records for name in stopping())
    assert {priority for priority, _ in schedulers} == set(PRIORITIES)


@pytest.mark.parametrize("name", sorted(SCHEDULERS.keys() - stopping()))
def test_what_stops_nothing_has_no_scheduler(name):
    with pytest.raises(UserError, match=f"unknown scheduler '{name}'"):
        make_scheduler(name, RungConfig(9, 9))


# every scheduler ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@given(races(), random_orders)
def test_every_trial_ends_finished_stopped_or_diverged(name, race, random):
    scheduler = make_scheduler(name, race.config)
    journal = run(scheduler, race, random)
    done = finished(journal, race)
    assert done | scheduler.stopped().keys() | scheduler.diverged == set(race.curves)
    assert not done & (scheduler.stopped().keys() | scheduler.diverged)
    assert not scheduler.resumable()
    if not any(has_diverged(race, trial) for trial in race.curves):
        assert done


@pytest.mark.parametrize("name", NAMES)
@given(races(), random_orders)
def test_what_is_not_finite_stops_and_is_compared_with_nothing(name, race, random):
    scheduler = make_scheduler(name, race.config)
    for record in run(scheduler, race, random):
        if any(n is None for pair in record.values for n in pair):
            assert record.decision == "stop"
            assert record.trial in scheduler.diverged
    assert all(math.isfinite(n) for rung in scheduler.rungs.values() for v in rung.values() for pair in v for n in pair)
    assert not scheduler.diverged & scheduler.stopped().keys()
    for trial in scheduler.diverged:
        assert scheduler.report(trial, race.config.epochs + 1, ((90.0, 1e6),) * 3) is STOP


@pytest.mark.parametrize("name", NAMES)
@given(races(), random_orders)
def test_decisions_are_made_at_rungs_and_never_at_the_last_epoch(name, race, random):
    levels = race.config.levels
    for record in run(make_scheduler(name, race.config), race, random):
        healthy = not any(n is None for pair in record.values for n in pair)
        if healthy and (record.epoch not in levels or record.epoch == race.config.epochs):
            assert record.decision == "continue"


@pytest.mark.parametrize("name", NAMES)
@given(races(), random_orders, st.integers(0, 60), random_orders)
def test_a_journal_restores_the_rule_and_what_it_decides_next(name, race, random, steps, later):
    """A study that is killed after some steps continues as the undisturbed one does."""
    scheduler = make_scheduler(name, race.config)
    journal = run(scheduler, race, random, steps=steps, failing={"t0"})
    restored = make_scheduler(name, race.config)
    replay(restored, [decode(canonical(encode(record)).encode()) for record in journal])
    assert restored == scheduler
    twin = copy.deepcopy(later)
    rest = run(scheduler, race, later, journal, failing={"t0"})
    assert run(restored, race, twin, journal, failing={"t0"}) == rest
    assert restored == scheduler


@pytest.mark.parametrize("name", NAMES)
@given(races(), random_orders, st.integers(0, 60))
def test_a_worker_that_starts_again_changes_nothing(name, race, random, steps):
    """It reports all its epochs again. Only a paused trial whose rung has been decided gets another decision."""
    scheduler = make_scheduler(name, race.config)
    journal = run(scheduler, race, random, steps=steps)
    before = copy.deepcopy(scheduler)
    for record in journal:
        trial, epoch = record.trial, record.epoch
        again = scheduler.report(trial, epoch, ((1.0, 1.0),) * 3)
        if record.decision != "pause":
            assert again.value == record.decision
        elif trial in scheduler.resumable() or (trial, epoch + 1) in scheduler.decisions:
            assert again is CONTINUE
        else:
            assert again is (STOP if scheduler.stopped().get(trial) == epoch else PAUSE)
    assert scheduler == before


@pytest.mark.parametrize("name", NAMES)
@given(races(), st.integers())
def test_equal_inputs_give_equal_decisions(name, race, seed):
    first, second = (run(make_scheduler(name, race.config), race, Random(seed)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("name", NAMES)
@given(races(healthy=True), random_orders)
def test_a_trial_whose_pairs_dominate_all_others_is_never_stopped(name, race, random):
    """At every epoch one trial shows more accuracy for fewer bits than anybody, at every width."""
    best = tuple((100.5, 500.0 + width) for width in range(3))
    race.curves["t0"] = (best,) * race.config.epochs
    assert "t0" in finished(run(make_scheduler(name, race.config), race, random), race)


@pytest.mark.parametrize("name", NAMES)
@given(st.dictionaries(st.sampled_from("abcdefgh"), shows, min_size=1), random_orders, st.sampled_from([2, 2.5, 3]))
def test_survivors_of_a_full_rung_depend_on_no_order(name, rung, random, factor):
    priority = priority_of(name)
    names = list(rung)
    random.shuffle(names)
    best = survivors(priority.scores(rung), factor, len(rung))
    assert survivors(priority.scores({trial: rung[trial] for trial in names}), factor, len(rung)) == best
    assert len(best) == max(1, int(len(rung) / factor))


@pytest.mark.parametrize("name", NAMES)
@given(st.lists(shows, min_size=1, max_size=8), shows, st.lists(st.floats(0, 20), min_size=3, max_size=3), st.data())
def test_where_the_better_would_be_stopped_the_worse_is_too(name, others, better, losses, data):
    """The same rung before it, the one or the other arrives. Less accuracy at the same bits."""
    worse = tuple((max(a - loss, 0.0), bits) for (a, bits), loss in zip(better, losses, strict=True))
    config = RungConfig(10, len(others) + 1, 1, data.draw(st.sampled_from([2, 3, 4])))
    ended = {}
    for kind, shown in {"better": better, "worse": worse}.items():
        scheduler = make_scheduler(name, config)
        for i, other in enumerate(others):
            scheduler.report(f"t{i}", 1, other)
        scheduler.report("new", 1, shown)
        ended[kind] = "new" in scheduler.stopped()
    assert ended["worse"] or not ended["better"]


@pytest.mark.parametrize("name", NAMES)
def test_one_trial_alone_runs_to_its_end(name):
    scheduler = make_scheduler(name, RungConfig(epochs=9, trials=1))
    for epoch in range(1, 10):
        assert scheduler.report("only", epoch, ((10.0, 1e6), (9.0, 1e5))) is CONTINUE


@pytest.mark.parametrize("name", NAMES)
def test_a_float_model_is_enough_between_the_rungs(name):
    scheduler = make_scheduler(name, RungConfig(epochs=9, trials=1))
    assert scheduler.report("only", 1, ((10.0, 1e6), (9.0, 1e5))) is CONTINUE
    assert scheduler.report("only", 2, ((10.0, 1e6),)) is CONTINUE


@pytest.mark.parametrize("name", NAMES)
@given(races(healthy=True), random_orders)
def test_a_trial_that_missed_a_rung_is_compared_there_later(name, race, random):
    """Every second report is lost."""
    scheduler = make_scheduler(name, race.config)
    for epoch in range(2, race.config.epochs + 1, 2):
        for trial in random.sample(list(race.curves), len(race.curves)):
            scheduler.report(trial, epoch, race.curves[trial][epoch - 1])
    reached = [level for level in race.config.levels if level < race.config.epochs - race.config.epochs % 2]
    for level in reached[:1]:
        assert scheduler.rungs[level].keys() == race.curves.keys()


@pytest.mark.parametrize("name", NAMES)
def test_another_rules_journal_is_refused(name):
    scheduler = make_scheduler(name, RungConfig(epochs=9, trials=9))
    record = Reported.of("t", 2, ((10.0, 1e6), (9.0, 1e5)), STOP)
    with pytest.raises(UserError, match=r"journal record 1: the decision for trial t after epoch 2 was 'stop'"):
        replay(scheduler, [record])


# Pareto -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in NAMES if priority_of(name).ordinal])
@given(races(), random_orders)
def test_nothing_survives_a_rung_that_stopped_what_dominates_it(name, race, random):
    """Of a whole race: at the rung where a trial was stopped, none that it dominates there continues after it."""
    scheduler = make_scheduler(name, race.config)
    journal = run(scheduler, race, random)
    at = {(record.trial, record.epoch): i for i, record in enumerate(journal)}
    for stopped, level in scheduler.stopped().items():
        for trial, shown in scheduler.rungs[level].items():
            if trial in scheduler.diverged or not dominates(scheduler.rungs[level][stopped], shown):
                continue
            came_first = at[trial, level] < at[stopped, level]
            if name in SYNCHRONOUS or not came_first:
                assert scheduler.stopped()[trial] == level


def test_a_dominating_latecomer_goes_on():
    """Where Syne Tune's NonDominatedPriority stops it: (0, 0) after (1, 1), (2, 2), (3, 3), both to minimise."""
    scheduler = make_scheduler("asha_pareto", RungConfig(epochs=9, trials=4, reduction_factor=3))
    for i in (1, 2, 3):
        scheduler.report(f"t{i}", 1, ((100.0 - i, 1e6 * 2**i),))
    assert scheduler.report("t0", 1, ((100.0, 1e6),)) is CONTINUE


def test_a_trial_that_a_stopped_one_dominates_is_stopped_whatever_came_between():
    """Weak ones lower the quantile; the second would pass it, but the rung has stopped a better one already."""
    schedulers = [
        make_scheduler(name, RungConfig(epochs=9, trials=99, reduction_factor=2)) for name in ("asha_pareto", "asha")
    ]
    decisions = []
    for scheduler in schedulers:
        for i in range(3):
            assert scheduler.report(f"strong{i}", 1, ((90.0 + i, 1e6),)) is CONTINUE
        assert scheduler.report("good", 1, ((89.0, 1e6),)) is STOP
        for i in range(9):
            scheduler.report(f"weak{i}", 1, ((10.0 - i, 1e6),))
        decisions.append(scheduler.report("worse", 1, ((88.0, 1e6),)))
    assert decisions == [STOP, CONTINUE]


# synchronous --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SYNCHRONOUS)
@given(races(), st.lists(random_orders, min_size=2, max_size=2))
def test_survivors_do_not_depend_on_the_order_of_trials(name, race, orders):
    schedulers = [make_scheduler(name, race.config) for _ in orders]
    ends = [finished(run(scheduler, race, random), race) for scheduler, random in zip(schedulers, orders, strict=True)]
    assert ends[0] == ends[1]
    assert schedulers[0].stopped() == schedulers[1].stopped()
    assert schedulers[0].promoted == schedulers[1].promoted


@pytest.mark.parametrize("name", SYNCHRONOUS)
@given(races(), random_orders)
def test_no_trial_passes_a_rung_before_all_have_come(name, race, random):
    scheduler = make_scheduler(name, race.config)
    journal = run(scheduler, race, random)
    first = race.config.levels[0]
    past = next((i for i, record in enumerate(journal) if record.epoch > first), len(journal))
    here = {r.trial for r in reports(journal[:past]) if r.epoch == first or r.decision is Decision.STOP}
    assert past == len(journal) or here == set(race.curves)


@pytest.mark.parametrize("name", SYNCHRONOUS)
def test_halving_by_hand(name):
    """9 trials, 3, 1: rungs after epochs 1 and 3; every epoch is worth what the trial's number is."""
    scheduler = make_scheduler(name, RungConfig(epochs=9, trials=9))

    def report(i, epoch):
        return scheduler.report(f"t{i}", epoch, ((10.0 * i, 1e6), (10.0 * i, 1e5)))

    assert [report(i, 1) for i in range(8)] == [PAUSE] * 8
    assert (scheduler.resumable(), scheduler.stopped()) == ([], {})
    assert report(8, 1) is CONTINUE
    assert scheduler.resumable() == ["t6", "t7"]
    assert scheduler.stopped() == dict.fromkeys([f"t{i}" for i in range(6)], 1)
    assert report(5, 2) is STOP
    assert [report(8, 2), report(8, 3), report(7, 2)] == [CONTINUE, PAUSE, CONTINUE]
    assert scheduler.resumable() == ["t6"]
    scheduler.leave("t6")
    assert scheduler.resumable() == []
    assert report(7, 3) is STOP
    assert scheduler.resumable() == ["t8"]
    assert [report(8, epoch) for epoch in range(4, 10)] == [CONTINUE] * 6


@pytest.mark.parametrize("name", SYNCHRONOUS)
@given(races(healthy=True), random_orders)
def test_a_rung_does_not_wait_for_trials_that_failed(name, race, random):
    """They count among those of whom a share survives, but do not survive themselves."""
    assume(len(race.curves) > 1 and race.config.levels[0] > 1)
    scheduler = make_scheduler(name, race.config)
    journal = run(scheduler, race, random, failing={"t0", "t1"})
    assert scheduler.left >= {"t0", "t1"}
    assert len(finished(journal, race)) >= min(1, len(race.curves) - 2)
    share = max(1, int(race.config.trials / race.config.reduction_factor))
    assert len(scheduler.promoted[0]) == min(share, race.config.trials - 2)


@pytest.mark.parametrize("name", SYNCHRONOUS)
def test_one_that_failed_may_come_back_while_its_rung_waits(name):
    scheduler = make_scheduler(name, RungConfig(epochs=9, trials=3))
    good, weak = ((90.0, 1e6), (90.0, 1e5)), ((10.0, 1e6), (10.0, 1e5))
    assert scheduler.report("a", 1, good) is PAUSE
    scheduler.leave("a")
    assert scheduler.report("b", 1, weak) is PAUSE
    assert scheduler.report("a", 1, good) is PAUSE  # it is restarted, and repeats its reports
    assert scheduler.report("c", 1, weak) is STOP
    assert scheduler.resumable() == ["a"]


@pytest.mark.parametrize("name", SYNCHRONOUS)
def test_one_that_comes_back_too_late_is_stopped(name):
    scheduler = make_scheduler(name, RungConfig(epochs=9, trials=3, grace_period=2))
    good, weak = ((90.0, 1e6), (90.0, 1e5)), ((10.0, 1e6), (10.0, 1e5))
    assert scheduler.report("a", 1, good) is CONTINUE
    scheduler.leave("a")
    scheduler.report("b", 2, weak)
    assert scheduler.report("c", 2, weak) is STOP
    assert scheduler.report("a", 1, good) is CONTINUE
    assert scheduler.report("a", 2, good) is STOP
    assert scheduler.stopped() == {"a": 2, "c": 2}
    assert scheduler.resumable() == ["b"]


@pytest.mark.parametrize("name", SYNCHRONOUS)
def test_where_all_failed_nobody_goes_on(name):
    scheduler = make_scheduler(name, RungConfig(epochs=9, trials=2))
    scheduler.leave("a")
    assert scheduler.report("b", 1, ((math.nan, 1e6), (1.0, 1e5))) is STOP
    assert (scheduler.resumable(), scheduler.stopped()) == ([], {})


# asynchronous -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ASYNCHRONOUS)
@given(races(), random_orders)
def test_no_trial_is_ever_paused(name, race, random):
    journal = run(make_scheduler(name, race.config), race, random)
    assert all(record.decision is not Decision.PAUSE for record in reports(journal))


# by configuration -----


@pytest.mark.parametrize("name", NAMES)
@given(races(), st.integers())
def test_configurations_of_one_trial_are_compared_as_trials_are(name, race, seed):
    plain, grouped = make_scheduler(name, race.config), by_configuration(make_scheduler(name, race.config))
    for trial in race.curves:
        grouped.group([trial])
    journals = [run(each, race, Random(seed), failing={"t0"}) for each in (plain, grouped)]
    assert journals[0] == journals[1]
    assert (plain.stopped(), plain.diverged, plain.left) == (grouped.stopped(), grouped.diverged, grouped.left)
    assert plain.reasons == grouped.reasons


SEEDS = 3


def grouped_race(name, race):
    """The trials of a race in configurations of up to three seeds, compared by configuration."""
    trials = list(race.curves)
    groups = [trials[i : i + SEEDS] for i in range(0, len(trials), SEEDS)]
    config = replace(race.config, trials=len(groups))
    scheduler = by_configuration(make_scheduler(name, config))
    for group in groups:
        scheduler.group(group)
    return scheduler, groups


@pytest.mark.parametrize("name", NAMES)
@given(races(), random_orders, st.sets(st.sampled_from(["t0", "t1", "t2", "t5"])))
def test_seeds_stop_and_go_on_together_and_none_waits_for_ever(name, race, random, failing):
    scheduler, groups = grouped_race(name, race)
    journal = run(scheduler, race, random, failing=failing)
    done = finished(journal, race)
    for group in groups:
        out = scheduler.left | scheduler.diverged
        assert {trial in done for trial in group if trial not in out} in ({True}, {False}, set())
        assert len({scheduler.stops[trial] for trial in group if trial in scheduler.stops}) <= 1
    stopped = scheduler.stopped().keys()
    assert done | stopped | scheduler.diverged | scheduler.left >= set(race.curves)
    assert not scheduler.resumable()
    assert not stopped & (scheduler.diverged | done)
    assert scheduler.reasons.keys() == scheduler.stops.keys()


@pytest.mark.parametrize("name", NAMES)
@given(races(), random_orders, st.integers(0, 60), random_orders)
def test_a_journal_restores_a_comparison_by_configuration(name, race, random, steps, later):
    scheduler, _ = grouped_race(name, race)
    journal = run(scheduler, race, random, steps=steps, failing={"t0", "t4"})
    restored, _ = grouped_race(name, race)
    replay(restored, [decode(canonical(encode(record)).encode()) for record in journal])
    assert restored == scheduler
    twin = copy.deepcopy(later)
    rest = run(scheduler, race, later, journal, failing={"t0", "t4"})
    assert run(restored, race, twin, journal, failing={"t0", "t4"}) == rest
    assert restored == scheduler


@pytest.mark.parametrize("name", SYNCHRONOUS)
@given(races(), st.lists(random_orders, min_size=2, max_size=2))
def test_the_best_configurations_do_not_depend_on_the_order(name, race, orders):
    schedulers = [grouped_race(name, race)[0] for _ in orders]
    ends = [finished(run(scheduler, race, random), race) for scheduler, random in zip(schedulers, orders, strict=True)]
    assert ends[0] == ends[1]
    assert schedulers[0].stopped() == schedulers[1].stopped()


def test_asha_by_configuration_by_hand():
    """Seed b1 is the worst, its configuration the best; a diverged seed is neither waited for nor in the mean."""
    scheduler = by_configuration(make_scheduler("asha", RungConfig(epochs=9, trials=3, reduction_factor=2)))
    for group in ("a0 a1", "b0 b1", "c0 c1"):
        scheduler.group(group.split())

    def report(trial, accuracy, epoch=1):
        return scheduler.report(trial, epoch, ((accuracy, 1e6),))

    assert [report("a0", 60.0), report("b1", 40.0)] == [PAUSE, PAUSE]
    assert (scheduler.resumable(), scheduler.stopped()) == ([], {})
    assert [report("a1", 50.0), report("b0", 90.0)] == [CONTINUE, CONTINUE]
    assert scheduler.resumable() == ["a0", "b1"]
    assert report("c0", 58.0) is PAUSE
    assert report("c1", math.nan) is STOP
    assert scheduler.stopped() == {"c0": 1}
    assert scheduler.reasons["c0"] == "58.00 % below the cut 60.00 %"
    assert report("b1", 40.0) is CONTINUE  # its worker was restarted
    scheduler.leave("b0")
    assert [report("b1", 70.0, 2), report("a0", 60.0, 2)] == [CONTINUE, PAUSE]
    assert report("a1", 62.0, 2) is STOP
    assert scheduler.reasons["a0"] == "mean of 2 seeds: 61.00 % below the cut 70.00 %"
    assert report("b0", 10.0, 2) is CONTINUE  # it failed, and follows its configuration


def test_a_seed_that_returns_to_a_stopped_configuration_is_stopped():
    scheduler = by_configuration(make_scheduler("halving", RungConfig(epochs=9, trials=2, reduction_factor=2)))
    scheduler.group(["a0", "a1"])
    scheduler.group(["b0", "b1"])
    scheduler.leave("a1")
    reports = {"a0": 50.0, "b0": 60.0, "b1": 70.0}
    assert [scheduler.report(trial, 1, ((value, 1e6),)) for trial, value in reports.items()] == [PAUSE, PAUSE, CONTINUE]
    assert scheduler.stopped() == {"a0": 1}
    assert scheduler.resumable() == ["b0"]
    assert scheduler.report("a1", 1, ((99.0, 1e6),)) is STOP
    assert scheduler.stopped() == {"a0": 1, "a1": 1}


# reasons -----


@pytest.mark.parametrize("name", NAMES)
@given(races(), random_orders)
def test_what_was_stopped_has_a_reason_and_nothing_else_does(name, race, random):
    scheduler = make_scheduler(name, race.config)
    run(scheduler, race, random, failing={"t0"})
    assert scheduler.reasons.keys() == scheduler.stops.keys()
    assert all(scheduler.reasons.values())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("asha", "61.20 % below the cut 64.85 %"),
        ("asha_quantized", "60.20 % below the cut 63.85 %"),
        ("asha_pareto", "place 3 of 3, and one in 2 continues"),
        ("halving", "61.20 % below the cut 65.10 %"),
        ("halving_quantized", "60.20 % below the cut 64.10 %"),
        ("halving_pareto", "place 3 of 3, and 1 continue"),
    ],
)
def test_a_reason_has_the_value_and_the_cut(name, reason):
    scheduler = make_scheduler(name, RungConfig(epochs=9, trials=3, reduction_factor=2))
    for trial, accuracy in {"a": 64.60, "b": 65.10, "c": 61.20}.items():
        scheduler.report(trial, 1, ((accuracy, 1e6), (accuracy - 1, 1e5)))
    assert scheduler.reasons["c"] == reason


@pytest.mark.parametrize(
    ("score", "cut", "text"),
    [
        (61.2, 64.85, "61.20 % below the cut 64.85 %"),
        (61.201, 61.202, "61.2010 % below the cut 61.2020 %"),
        (61.2, 61.2, "61.20 % ties with the cut"),
    ],
)
def test_a_value_and_its_cut_differ_as_printed(score, cut, text):
    assert below(score, cut) == text


# settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "levels"),
    [
        ((10, 1, 1, 3), (1, 3, 9)),
        ((9, 1, 1, 3), (1, 3)),  # none at the last epoch
        ((28, 1, 2, 3), (2, 6, 18)),
        ((20, 1, 1, 2.5), (1, 3, 7, 16)),
        ((2, 1, 1, 4), (1,)),
        ((1025, 1, 1, 2), tuple(2**k for k in range(11))),
    ],
)
def test_levels(arguments, levels):
    assert RungConfig(*arguments).levels == levels


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs = 0: must be a whole number"),
        ({"trials": 0}, "trials = 0: must be a whole number"),
        ({"grace_period": 1.5}, "grace_period = 1.5: must be a whole number"),
        ({"grace_period": True}, "grace_period = True: must be a whole number"),
        ({"grace_period": 10}, "must be below the number of epochs"),
        ({"reduction_factor": 1}, "reduction_factor = 1: must be a number, at least 2"),
        ({"reduction_factor": math.nan}, "reduction_factor = nan: must be"),
        ({"reduction_factor": math.inf}, "reduction_factor = inf: must be"),
        ({"reduction_factor": "3"}, "reduction_factor = '3': must be"),
    ],
)
def test_settings_that_compare_nothing_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        RungConfig(**{"epochs": 10, "trials": 4} | changes)


def test_an_unknown_scheduler_gets_a_suggestion():
    with pytest.raises(UserError, match="did you mean 'asha_pareto'"):
        make_scheduler("asha_parto", RungConfig(9, 9))


def test_the_first_rung_as_a_share_of_the_training():
    assert [SchedulerConfig("asha", share).first_rung(10) for share in (1e-10, 0.1, 0.11, 0.5, 0.9)] == [1, 1, 2, 5, 9]
    with pytest.raises(
        UserError, match=r"scheduler\.grace_period = 0\.9: of 2 epochs, that share ends with the last, "
    ):
        SchedulerConfig("asha", 0.9).first_rung(2)


def test_the_reason_counts_the_seeds_of_the_mean():
    """Not one that failed between the report of the mean and the decision, nor one that had failed before."""
    scheduler = by_configuration(make_scheduler("halving", RungConfig(epochs=9, trials=2, reduction_factor=2)))
    for group in ("a0 a1 a2", "b0"):
        scheduler.group(group.split())
    scheduler.leave("a2")
    for trial, accuracy in (("a0", 50.0), ("a1", 60.0)):
        assert scheduler.report(trial, 1, ((accuracy, 1e6),)) is PAUSE
    scheduler.leave("a1")
    assert scheduler.report("b0", 1, ((90.0, 1e6),)) is CONTINUE
    assert scheduler.reasons["a0"].startswith("mean of 2 seeds: ")
    scheduler = by_configuration(make_scheduler("asha", RungConfig(epochs=9, trials=2, reduction_factor=2)))
    scheduler.group(["a0", "a1"])
    scheduler.report("b", 1, ((90.0, 1e6),))
    scheduler.report("a1", 1, ((10.0, 1e6),))
    scheduler.leave("a1")
    assert scheduler.report("a0", 1, ((20.0, 1e6),)) is STOP
    assert scheduler.reasons["a0"] == "20.00 % below the cut 90.00 %"
