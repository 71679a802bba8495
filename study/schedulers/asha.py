"""Asynchronous successive halving: a trial is compared with those that reached the rung before it."""

from dataclasses import dataclass

import numpy as np

from study.schedulers.priorities import Values, dominates
from study.schedulers.scheduler import Decision, Scheduler, below


@dataclass
class Asha(Scheduler):
    """A trial continues after a rung if it reaches the 1 − 1/reduction_factor quantile of those before it.

    This is the stopping variant of ASHA (Li et al. 2018, arXiv:1810.05934), as in Ray Tune, so the first trial at
    a rung always continues, and a later arrival never stops a trial that has passed. With an ordinal priority, a
    trial is also stopped if one that this rung has stopped dominates it.
    """

    def _judge(self, trial: str, epoch: int, values: Values) -> Decision:
        for level in self.levels:
            if level <= epoch and trial not in self.rungs[level] and (lack := self._lack(trial, level, values)):
                self._stop(trial, level, lack)
                return Decision.STOP
        return Decision.CONTINUE

    def _lack(self, trial: str, level: int, values: Values) -> str:
        """Add a trial to a rung; return why it does not survive it, an empty text if it does."""
        rung = self.rungs[level]
        rung[trial] = values
        scores = self.priority.scores(rung)
        own = scores.pop(trial)
        if not scores:
            return ""
        others, share = np.array(list(scores.values())), (1 - 1 / self.reduction_factor) * 100
        if not self.priority.ordinal:
            cut = float(np.percentile(others, share))
            return "" if own >= cut else below(own, cut)
        if np.percentile(np.sign(others - own), share) > 0:
            return f"place {(others > own).sum() + 1} of {len(rung)}, and one in {self.reduction_factor:g} continues"
        return "dominated by a trial stopped there" if self._is_dominated(level, values) else ""

    def _is_dominated(self, level: int, values: Values) -> bool:
        """Return whether this rung has stopped a trial that dominates these values."""
        stopped = (self.rungs[level][trial] for trial, last in self.stops.items() if last == level)
        return any(dominates(other, values) for other in stopped)
