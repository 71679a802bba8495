"""Numbers as text and tables as Markdown."""

import math
from collections.abc import Iterable, Sequence

from benchmarks.paper.compare import LEVEL, Difference
from kdq.bits import FLOAT_BITS

NOTHING = "—"


def number(value: float, sign: bool = False) -> str:
    """Return a value with two decimals and a typographic minus; a dash for NaN."""
    if math.isnan(value):
        return NOTHING
    rounded = round(value, 2) + 0.0  # −0.0 + 0.0 is 0.0
    return f"{rounded:{'+' if sign else ''}.2f}".replace("-", "−")


def interval(each: Difference | None, usual_n: int, is_bold: bool = False) -> str:
    """Return a difference and its interval, with n where it is not the usual one."""
    if each is None:
        return NOTHING
    text = number(each.mean, sign=True)
    text += f" [{number(each.low)}, {number(each.high)}]" if each.n > 1 else ""
    text = f"**{text}**" if is_bold else text
    return text if each.n == usual_n else f"{text} (n = {each.n})"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def joined(names: Sequence[str]) -> str:
    """Return names as a list in a sentence: "2, 3 and 4"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def widths(bits: Sequence[int]) -> str:
    """Return widths in a sentence: "2 and 3 bits", "8 bits and float"."""
    quantized, last = [f"{b}" for b in bits if b != FLOAT_BITS], ["float"] if FLOAT_BITS in bits else []
    unit = " bit" if quantized == ["1"] else " bits"
    return joined([*([joined(quantized) + unit] if quantized else []), *last])


PERCENT = f"{100 * LEVEL:.0f} %"
