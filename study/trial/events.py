"""What a trial reports."""

from typing import Any

Event = dict[str, Any]
"""What a trial reports: an `epoch`, a `point`, that its student is `reused`, or its `end`, as the key `event` says.

An end has a `status`, a `reason` in one line, the path of a `log`, and all that the `error` says; the last two are
empty for one that is `completed`, and a log that could not be written is None.
An epoch at which trials are compared has a `probe` (see `kdq.pipeline.probe`), unless another study
trained the student.
"""
