"""Jobs in threads, each in a stream of its own on a GPU, so that their kernels may run beside each other.

Nothing may be traced by torch.fx while they run (`kdq.models.graph`): a teacher is folded before, in the main thread.
"""

from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import torch

Result = TypeVar("Result")


@contextmanager
def own_stream(device: str) -> Iterator[None]:
    if device != "cuda":
        yield
        return
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.default_stream())
    with torch.cuda.stream(stream):
        yield
    stream.synchronize()


def as_finished(
    jobs: Mapping[str, Callable[[], Result]], at_once: int, device: str, meanwhile: Callable[[], None] = lambda: None
) -> Generator[tuple[str, Future[Result]], None, None]:
    """Run all jobs, so many at once, in the order given; yield each with its name as soon as it has ended.

    meanwhile: called about once a second. Close it where the loop may end early: it waits for its threads, which
    Python's garbage collection cannot do in one of them.
    """

    def run(job: Callable[[], Result]) -> Result:
        with own_stream(device):
            return job()

    pool = ThreadPoolExecutor(at_once)
    try:
        names = {pool.submit(run, job): name for name, job in jobs.items()}
        running = set(names)
        while running:
            ended, running = wait(running, timeout=1, return_when=FIRST_COMPLETED)
            meanwhile()
            for future in ended:
                yield names[future], future
    finally:
        pool.shutdown(cancel_futures=True)
