"""Our own schedulers and searchers keep what those of plugins are checked for."""

import pytest

from kdq.conformance.check import ConformanceError
from study.conformance import schedulers, searchers
from study.schedulers.asha import Asha
from study.schedulers.priorities import PRIORITIES, Values
from study.schedulers.registry import SCHEDULERS, SchedulerKind, stopping
from study.schedulers.scheduler import Decision
from study.space.searchers import SEARCHERS


@pytest.mark.parametrize("check", schedulers.CHECKS)
@pytest.mark.parametrize("name", stopping())
def test_every_scheduler_keeps(name: str, check: str) -> None:
    schedulers.CHECKS[check](name)


@pytest.mark.parametrize("check", searchers.CHECKS)
@pytest.mark.parametrize("name", SEARCHERS)
def test_every_searcher_keeps(name: str, check: str) -> None:
    searchers.CHECKS[check](name)


class Ruthless(Asha):
    """Stops every trial at its first rung."""

    def _judge(self, trial: str, epoch: int, values: Values) -> Decision:
        return Decision.STOP


def test_a_scheduler_that_stops_all_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = SchedulerKind(
        "float", "asynchronous", "", make=lambda config: Ruthless(PRIORITIES["float"], config.levels, 2)
    )
    monkeypatch.setitem(SCHEDULERS, "ruthless", kind)
    with pytest.raises(ConformanceError, match="all trials were stopped"):
        schedulers.ends_every_trial("ruthless")
