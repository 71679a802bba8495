"""Which images a model classifies correctly, as a short text: so that two models are compared on the same images."""

from base64 import b85decode, b85encode
from zlib import compress, decompress, error

import numpy as np
from numpy.typing import NDArray

Correct = NDArray[np.bool_]
"""For each image of a set, in its order: whether its class is predicted correctly. bool [N]."""

LARGEST = 1_000_000


def encode(correct: Correct) -> str:
    """Return the vector as text: its length, and its bits, compressed; at most 1.25 N / 8 + 30 characters."""
    plain = np.packbits(correct).tobytes()
    packed = compress(plain, 9)
    kind, content = ("z", packed) if len(packed) < len(plain) else ("p", plain)
    return f"{len(correct)}{kind}{b85encode(content).decode()}"


def decode(text: str) -> Correct:
    """Return the vector of a text that `encode` wrote. Raises ValueError for any other."""
    count, kind = text[: len(text) - len(text.lstrip("0123456789"))], text.lstrip("0123456789")[:1]
    if not count.isascii() or not 0 < int(count or 0) <= LARGEST or kind not in ("z", "p"):
        raise ValueError(f"{text[:20]!r}: is no vector of correct predictions")
    content = b85decode(text[len(count) + 1 :])
    try:
        plain = decompress(content) if kind == "z" else content
    except error as damage:
        raise ValueError(f"{text[:20]!r}: is damaged ({damage})") from None
    if len(plain) != (int(count) + 7) // 8:
        raise ValueError(f"{text[:20]!r}: has {len(plain)} bytes for {count} images")
    return np.unpackbits(np.frombuffer(plain, np.uint8), count=int(count)).astype(np.bool_)


def top1(correct: Correct) -> float:
    """Return the top-1 accuracy in percent."""
    return 100.0 * (int(correct.sum()) / len(correct))
