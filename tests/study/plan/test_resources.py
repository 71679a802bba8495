"""What a trial takes, and how many run at a time, on machines of several kinds."""

import pytest

from kdq.errors import UserError
from study.plan.resources import Machine, Resources, resources, slots

HEAD = Machine("the head", cores=0, gpus=0)
SMALL = Machine("a node without GPUs", cores=16, gpus=0)
LARGE = Machine("a node with GPUs", cores=8, gpus=4)


@pytest.mark.parametrize(
    ("cpus", "gpus", "machines", "trial", "at_once"),
    [
        (None, None, [SMALL], Resources(1, 0), 16),  # on a CPU: one thread a trial, as many trials as cores
        (4, None, [SMALL], Resources(4, 0), 4),
        (None, None, [HEAD, SMALL, LARGE], Resources(1, 1), 4),  # where there are GPUs, they do the work
        (None, 0, [HEAD, SMALL, LARGE], Resources(1, 0), 24),
        (0.5, 0.25, [LARGE], Resources(0.5, 0.25), 16),
        (None, 0.25, [LARGE], Resources(1, 0.25), 8),  # its cores are too few for all shares
        (1, 0.4, [LARGE], Resources(1, 0.4), 8),  # two to a GPU: the rest of it is no share
        (1, 2, [LARGE], Resources(1, 2), 2),
    ],
)
def test_what_a_trial_takes(
    cpus: float | None, gpus: float | None, machines: list[Machine], trial: Resources, at_once: int
) -> None:
    assert resources(cpus, gpus, machines) == trial
    assert slots(trial, machines) == at_once


@pytest.mark.parametrize(
    ("cpus", "gpus", "message"),
    [
        (17, 0, "--cpus-per-trial 17: a node without GPUs has 16 cores"),
        (16, 1, "--cpus-per-trial 16: a node with GPUs has 8 cores"),  # those of the other do not help
        (None, 8, "--gpus-per-trial 8: a node with GPUs has 4 GPUs"),
        (None, 1.5, "must be a share of one GPU, or a whole number"),
    ],
)
def test_what_fits_nowhere_is_refused(cpus: float | None, gpus: float | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resources(cpus, gpus, [HEAD, SMALL, LARGE])


def test_the_threads_of_a_trial_are_its_cores() -> None:
    assert [Resources(cpus, 0).threads for cpus in (0.25, 1, 2.5, 8)] == [1, 1, 2, 8]
