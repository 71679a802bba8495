"""Numbers as text: exact, and durations and sizes for people."""

from typing import Any


def exact(value: float) -> str:
    """A number as the shortest text that reads back as the same number."""
    return repr(float(value)).removesuffix(".0")


def show(value: Any) -> str:
    """A value as one would write it."""
    if isinstance(value, float):
        return exact(value)
    return str(list(value)) if isinstance(value, tuple) else repr(value)


def size(count: float) -> str:
    """Bytes as a person says them: `3.2 MB`."""
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.5:
            return f"{count:.3g} {unit}"
    return f"{count / 1000:.3g} TB"


def duration(seconds: float) -> str:
    """Seconds as a person says them: `45 s`, `3 min 20 s`, `2 h 5 min`."""
    s = round(seconds)
    if s < 60:
        return f"{s} s"
    if s < 3600:
        return f"{s // 60} min {s % 60} s"
    return f"{s // 3600} h {s % 3600 // 60} min"
