"""The summary at the end of a study's command."""

from study.console.summary import Outcome, close
from study.results.status import StudyStatus, TrialStatus


def test_a_search_that_has_tried_the_whole_space_says_so() -> None:
    shortage = "the space has 2 configurations in all, each tried once, fewer than trials = 3"
    statuses = {"a": TrialStatus.STOPPED, "b": TrialStatus.STOPPED}
    lines = list[str]()
    for reason in (shortage, ""):
        outcome = Outcome("s", StudyStatus.COMPLETED, 1.0, statuses, [], "1", "front.png", "", 0, False, reason, {})
        close(outcome, "sqlite:///mlflow.db", [], lines.append)
        assert outcome.exit_status == 0
    ended = "\nstudy s: completed after 1 s; trials: 2 stopped"
    assert lines == [ended, shortage, ended]


def test_stopped_trials_are_listed_with_their_reasons() -> None:
    lines = list[str]()
    stopped = {f"dkd seed={n}": f"by asha at epoch {n} of 20: 61.20 % below the cut 64.85 %" for n in range(13)}
    statuses = {"a": TrialStatus.STOPPED}
    outcome = Outcome("s", StudyStatus.COMPLETED, 1.0, statuses, [], "1", "front.png", "", 0, False, "", stopped)
    close(outcome, "sqlite:///mlflow.db", [], lines.append)
    assert lines[1] == "stopped: dkd seed=0: by asha at epoch 0 of 20: 61.20 % below the cut 64.85 %"
    assert lines[11] == "stopped: 3 more; python -m analysis trials --study s lists all with their reasons"
    assert len(lines) == 12
