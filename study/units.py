"""Numbers as text: exact ones, and readable durations and sizes."""

from typing import Any


def exact(value: float) -> str:
    """Return the shortest text that parses back to the same number."""
    return repr(float(value)).removesuffix(".0")


def show(value: Any) -> str:
    """Return a value as a user would write it."""
    if isinstance(value, float):
        return exact(value)
    return str(list(value)) if isinstance(value, tuple) else repr(value)


def size(count: float) -> str:
    """Return a readable number of bytes: `3.2 MB`."""
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.5:
            return f"{count:.3g} {unit}"
    return f"{count / 1000:.3g} TB"


def duration(seconds: float) -> str:
    """Return a readable duration in seconds: `45 s`, `3 min 20 s`, `2 h 5 min`."""
    s = round(seconds)
    if s < 60:
        return f"{s} s"
    if s < 3600:
        return f"{s // 60} min {s % 60} s"
    return f"{s // 3600} h {s % 3600 // 60} min"
