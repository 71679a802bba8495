"""The packed file, whose payload is exactly the bits that are counted."""

from typing import TYPE_CHECKING

from kdq.lazy import public

if TYPE_CHECKING:
    from kdq.pack.file import load, pack
else:
    __getattr__, __dir__ = public(__name__, {"load": "kdq.pack.file", "pack": "kdq.pack.file"})

__all__ = ["load", "pack"]
