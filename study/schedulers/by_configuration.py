"""Early stopping by configuration: the seeds of a configuration continue or stop together, by their mean at a rung."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from study.schedulers.priorities import Values
from study.schedulers.scheduler import Decision, Scheduler


@dataclass
class ByConfiguration(Scheduler):
    """Compares configurations as `compared` compares trials, each by the mean of the values that its trials reported.

    A trial pauses at a rung until all trials of its configuration that still compete have reached it; those that
    failed or diverged are not waited for and not in the mean. One that returns after a failure follows what was
    decided for its configuration. A trial that was not announced by `group` is a configuration of its own.
    """

    compared: Scheduler
    members: dict[str, tuple[str, ...]] = field(init=False, default_factory=dict)  # trial -> those of its configuration
    seeds: dict[tuple[str, int], int] = field(init=False, default_factory=dict)  # how many each mean is of, by rung
    paused: dict[str, int] = field(init=False, default_factory=dict)  # trial -> the epoch after which it paused

    def group(self, trials: Sequence[str]) -> None:
        self.members |= dict.fromkeys(trials, tuple(trials))

    def leave(self, trial: str) -> None:
        super().leave(trial)
        self._settle(trial)

    def resumable(self) -> list[str]:
        ended = self.stops.keys() | self.diverged | self.left
        waiting = ((trial, epoch) for trial, epoch in self.paused.items() if trial not in ended)
        return sorted(trial for trial, epoch in waiting if self._standing(trial, epoch) is Decision.CONTINUE)

    def _repeated(self, trial: str, epoch: int) -> Decision:
        self._settle(trial)  # it may have returned
        decision = super()._repeated(trial, epoch)
        return self._standing(trial, epoch) if decision is Decision.PAUSE else decision

    def _diverge(self, trial: str) -> None:
        super()._diverge(trial)
        self._settle(trial)

    def _judge(self, trial: str, epoch: int, values: Values) -> Decision:
        self.paused.pop(trial, None)
        for level in self.levels:
            if level <= epoch:
                self.rungs[level].setdefault(trial, values)
        self._settle(trial)
        decision = self._standing(trial, epoch)
        if decision is Decision.PAUSE:
            self.paused[trial] = epoch
        elif decision is Decision.STOP and trial not in self.stops:  # it returned to a configuration that was stopped
            key = self._members(trial)[0]
            self._stop(trial, self.compared.stops[key], self.compared.reasons[key])
        return decision

    def _standing(self, trial: str, epoch: int) -> Decision:
        """Return what the rungs up to this epoch decide on the configuration of a trial."""
        key = self._members(trial)[0]
        if key in self.compared.stops:
            return Decision.STOP
        decided = (self._decided(key, level) for level in self.levels if level <= epoch)
        return next((decision for decision in decided if decision is not Decision.CONTINUE), Decision.CONTINUE)

    def _decided(self, key: str, level: int) -> Decision:
        """Return the decision on a configuration at a rung, PAUSE if there is none yet."""
        return self.compared._repeated(key, level) if (key, level) in self.compared.decisions else Decision.PAUSE

    def _settle(self, trial: str) -> None:
        """Report the configuration of a trial at each rung that all its competing trials have reached."""
        members = self._members(trial)
        present = [one for one in members if one not in self.left | self.diverged]
        if not present:
            self.compared.leave(members[0])
        for level in self.levels if present else ():
            if (members[0], level) not in self.compared.decisions or members[0] in self.compared.left:
                shown = [self.rungs[level][one] for one in present if one in self.rungs[level]]
                if len(shown) < len(present):
                    break
                self.seeds.setdefault((members[0], level), len(shown))
                self.compared.report(members[0], level, mean(shown))
            if self._decided(members[0], level) is not Decision.CONTINUE:
                break
        self._take_stops()

    def _take_stops(self) -> None:
        """Stop the competing trials of every configuration that was stopped."""
        for key, level in self.compared.stops.items():
            for trial in self._members(key):
                if trial not in self.stops.keys() | self.left | self.diverged:
                    seeds = self.seeds[key, level]
                    mean_of = f"mean of {seeds} seeds: " if seeds > 1 else ""
                    self._stop(trial, level, mean_of + self.compared.reasons[key])

    def _members(self, trial: str) -> tuple[str, ...]:
        """Return all trials of the configuration of a trial; the first one stands for it in `compared`."""
        return self.members.get(trial, (trial,))


def mean(shown: Sequence[Values]) -> Values:
    """Return the mean of each (accuracy, total bits) pair over the values of several trials."""
    return tuple(
        (fmean(accuracy for accuracy, _ in pairs), fmean(bits for _, bits in pairs))
        for pairs in zip(*shown, strict=True)
    )
