"""Synchronous successive halving: all trials of a rung are compared before any continues."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from study.schedulers.priorities import Values
from study.schedulers.scheduler import Decision, Scheduler, below


@dataclass
class Halving(Scheduler):
    """All trials of a rung are compared before any continues (successive halving, Jamieson and Talwalkar 2016).

    trials: the number at the first rung. One in reduction_factor of the trials expected at a rung survives it,
    rounded down but at least one; trials that failed or diverged count as expected, but cannot survive. The
    survivors do not depend on the order of arrival.
    """

    trials: int
    promoted: list[frozenset[str]] = field(init=False, default_factory=list)  # the survivors of each decided rung
    paused: dict[str, int] = field(init=False, default_factory=dict)  # trial -> the epoch after which it paused

    def leave(self, trial: str) -> None:
        super().leave(trial)
        self._settle()

    def resumable(self) -> list[str]:
        ended = self.stops.keys() | self.diverged | self.left
        waiting = ((trial, epoch) for trial, epoch in self.paused.items() if trial not in ended)
        return sorted(trial for trial, epoch in waiting if self._standing(trial, epoch) is Decision.CONTINUE)

    def _repeated(self, trial: str, epoch: int) -> Decision:
        decision = super()._repeated(trial, epoch)
        return self._standing(trial, epoch) if decision is Decision.PAUSE else decision

    def _diverge(self, trial: str) -> None:
        super()._diverge(trial)
        self._settle()

    def _judge(self, trial: str, epoch: int, values: Values) -> Decision:
        self.paused.pop(trial, None)
        while (decision := self._standing(trial, epoch)) is Decision.PAUSE and trial not in self._open_rung():
            self._open_rung()[trial] = values
            self._settle()
        if decision is Decision.PAUSE:
            self.paused[trial] = epoch
        elif decision is Decision.STOP and trial not in self.stops:  # it reached a rung that was decided without it
            level = next(n for n, best in zip(self.levels, self.promoted, strict=False) if trial not in best)
            self._stop(trial, level, "reached the rung after its decision")
        return decision

    def _standing(self, trial: str, epoch: int) -> Decision:
        """Return what the rungs up to this epoch decide on a trial."""
        due = [level for level in self.levels if level <= epoch]
        if not all(trial in best for best in self.promoted[: len(due)]):
            return Decision.STOP
        return Decision.CONTINUE if len(due) <= len(self.promoted) else Decision.PAUSE

    def _open_rung(self) -> dict[str, Values]:
        """Return the first rung that is not decided; no trial is beyond it."""
        return self.rungs[self.levels[len(self.promoted)]]

    def _settle(self) -> None:
        """Decide each rung that all its trials have reached."""
        while len(self.promoted) < len(self.levels) and self._is_full():
            level, absent = self.levels[len(self.promoted)], self.left | self.diverged
            present = {trial: values for trial, values in self._open_rung().items() if trial not in absent}
            expected = len(self.promoted[-1]) if self.promoted else self.trials
            scores = self.priority.scores(present)
            best = survivors(scores, self.reduction_factor, expected)
            for trial in sorted(self._open_rung().keys() - best - self.diverged):
                self._stop(trial, level, self._lack(trial, scores, best))
            self.promoted.append(best)

    def _lack(self, trial: str, scores: Mapping[str, float], best: frozenset[str]) -> str:
        """Return why a trial is not among the best of a rung."""
        if trial not in scores:
            return "failed before the rung was decided"
        own, cut = scores[trial], min(scores[one] for one in best)
        if not self.priority.ordinal:
            return below(own, cut)
        return f"place {sum(score > own for score in scores.values()) + 1} of {len(scores)}, and {len(best)} continue"

    def _is_full(self) -> bool:
        arrived = self._open_rung().keys() | self.left | self.diverged
        return self.promoted[-1] <= arrived if self.promoted else len(arrived) >= self.trials


def survivors(scores: Mapping[str, float], reduction_factor: float, expected: int) -> frozenset[str]:
    """Return the best 1/reduction_factor of a full rung, at least one trial; ties go to the lower trial id.

    scores: of the trials in the rung; expected: the number of trials that the share is taken of.
    """
    count = max(1, int(expected / reduction_factor))
    return frozenset(sorted(scores, key=lambda trial: (-scores[trial], trial))[:count])
