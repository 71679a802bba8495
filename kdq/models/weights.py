"""Which of the tensors in a checkpoint are the weights of a network, wherever they are and whatever prefix they have.

A checkpoint is a tree of mappings, in which weights are one mapping of names to tensors, or the part of one whose
names begin alike: `{"model": …}`, `{"state_dict_ema": …}`, `module.…`, `_orig_mod.…`, a loss's buffers beside them.
The weights are the only part that fits the network: the same names after the prefix, and the same shapes.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kdq.errors import UserError, printable

WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Parts of names that torch.compile, FSDP and activation checkpointing insert, at the front and between."""

BUFFERS_TO_IGNORE = "num_batches_tracked"
BESIDE = ("loss", "criterion", "aux")
"""Words in the names of modules beside the layers of a network that do not change its logits: those that Lightning
saves, and auxiliary classifiers that a network is built without."""

TOP = "."
"""The name of the tensors at the top of a checkpoint, without a prefix."""

LARGEST_DEPTH = 8  # of mappings in mappings
SHOWN = 5  # keys in a message


@dataclass(frozen=True, slots=True)
class Network:
    """What weights must fit.

    arch: its name; state: its state_dict; free: beginnings of names that need not fit; classes: the number of rows of
    tensors that may have another number of them, as layers that return logits do; None for no such.
    """

    arch: str
    state: Mapping[str, Tensor]
    free: tuple[str, ...] = ()
    classes: int | None = None

    @property
    def needed(self) -> list[str]:
        """Names that must be there in their shape."""
        return [key for key in self.state if not key.endswith(BUFFERS_TO_IGNORE) and not key.startswith(self.free)]

    def takes(self, name: str, value: Tensor) -> bool:
        """Return whether a tensor has the shape that is needed, or may have the one that it has."""
        own = self.state[name]
        return _shape(value) == _shape(own) or (name in self.heads and _is_longer(value, own))

    @property
    def heads(self) -> list[str]:
        """Names of tensors with a row a class."""
        return [name for name, value in self.state.items() if value.dim() and len(value) == self.classes]


@dataclass(frozen=True, slots=True)
class Part:
    """Tensors of a checkpoint by name, without their prefix, and where they do not fit the network.

    key: where in the checkpoint they are: the keys of the mappings and the prefix, joined by dots.
    """

    key: str
    tensors: Mapping[str, Tensor]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return not (self.missing or self.unexpected or self.misshapen)

    @property
    def nearness(self) -> tuple[int, int]:
        """Larger for a part that fits better."""
        return -len(self.missing) - len(self.misshapen), -len(self.unexpected)


def find_weights(content: object, network: Network, path: Path, key: str | None = None) -> dict[str, Tensor]:
    """Return the weights in a checkpoint's content: name in the network -> dense, finite tensor of its shape.

    Names that need not fit may be absent or have another shape, those of BUFFERS_TO_IGNORE be absent. key: where the
    weights are, as in `Part.key` or the beginning of it, if several parts fit. path: the file, for messages. Raises
    UserError if no part fits, if several do that differ, or if a tensor is sparse, quantized, without values, or not
    finite.
    """
    parts = [part for where, tensors in _mappings(content) for part in _parts(where, tensors, network)]
    if not parts:
        raise UserError(f"{path}: holds no state_dict of tensors; save the model's state_dict()")
    if key is not None:
        parts = _named(parts, key, network, path)
    fitting = _distinct([part for part in parts if part.fits], network)
    if not fitting:
        raise _misfit(max(parts, key=lambda part: part.nearness), network, path)
    if len(fitting) > 1:
        some = [f"{network.arch}:{path}#{part.key}" for part in fitting[:SHOWN]] + ["…"] * (len(fitting) > SHOWN)
        named = printable(" or ".join(some))
        raise UserError(
            f"{path}: {len(fitting)} sets of different weights in it fit {network.arch}, such as weights and their "
            f"average; choose: {named}"
        )
    weights = fitting[0].tensors
    found = {name: weights[name] for name in network.state if name in weights}
    faults = {name: fault for name, value in found.items() if (fault := _fault(name, value, network.state[name]))}
    for name, fault in faults.items():
        if not name.endswith(BUFFERS_TO_IGNORE):
            raise UserError(f"{path}: {name} {fault}")
    return {name: value for name, value in found.items() if name not in faults}


def _mappings(content: object) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield every mapping in the content that holds tensors: its keys joined by dots, and its tensors by name.

    Lists and tuples count as mappings of their indices.
    """
    seen: set[int] = set()
    level = [("", content)]
    for _ in range(LARGEST_DEPTH):
        inner: list[tuple[str, object]] = []
        for where, node in level:
            if not isinstance(node, Mapping | list | tuple) or id(node) in seen:
                continue  # a pickle may hold itself
            seen.add(id(node))
            items = list(node.items()) if isinstance(node, Mapping) else list(enumerate(node))
            if tensors := {str(key): value for key, value in items if isinstance(value, Tensor)}:
                yield where, _unwrapped(tensors)
            inner += [(f"{where}.{key}".lstrip("."), item) for key, item in items if not isinstance(item, Tensor)]
        level = inner


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors by their names without WRAPPERS, or as they are if two would have the same name."""
    names = [WRAPPERS.sub("", name) for name in tensors]
    return dict(zip(names, tensors.values(), strict=True)) if len(set(names)) == len(names) else tensors


def _parts(where: str, tensors: Mapping[str, Tensor], network: Network) -> Iterator[Part]:
    """Yield the tensors, and those under every prefix that leaves the network's first or last name."""
    needed = network.needed
    names = needed or list(network.state)
    must, ends = set(needed), tuple(f".{name}" for name in (names[0], names[-1]))
    prefixes = {name.removesuffix(end[1:]) for name in tensors for end in ends if f".{name}".endswith(end)}
    for prefix in sorted({"", *prefixes}, key=len):
        own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        yield Part(
            key=f"{where}.{prefix}".strip(".") or TOP,
            tensors=own,
            missing=tuple(name for name in needed if name not in own),
            unexpected=tuple(name for name in own if not _is_expected(name, network)),
            misshapen=tuple(
                name for name in network.state if name in own and name in must and not network.takes(name, own[name])
            ),
        )


def _is_expected(name: str, network: Network) -> bool:
    top = name.partition(".")[0].lower()
    is_beside = name not in network.state and any(word in top for word in BESIDE)
    return is_beside or name in network.state or name.endswith(BUFFERS_TO_IGNORE) or name.startswith(network.free)


def _named(parts: Sequence[Part], key: str, network: Network, path: Path) -> list[Part]:
    """Return the part with this key if it fits, or else those whose keys begin with it."""
    exact = [part for part in parts if part.key == key]
    found = exact if any(part.fits for part in exact) else exact + [p for p in parts if p.key.startswith(f"{key}.")]
    if not found:
        fitting = [part.key for part in parts if part.fits]
        nearest = max(parts, key=lambda part: part.nearness).key
        known = f"weights of {network.arch} are under {' and '.join(fitting)}" if fitting else f"it has {nearest}"
        raise UserError(f"{path}: holds no tensors under {key!r}; {printable(known)}")
    return found


def _distinct(parts: Sequence[Part], network: Network) -> list[Part]:
    """Return the parts without those whose tensors equal those of an earlier one."""
    found: list[Part] = []
    for part in parts:
        if not any(_is_equal(part, other, network) for other in found):
            found.append(part)
    return found


def _is_equal(one: Part, other: Part, network: Network) -> bool:
    pairs = [(one.tensors[name], other.tensors[name]) for name in network.needed]
    return all(a is b or (_is_dense(a) and _is_dense(b) and torch.equal(a, b)) for a, b in pairs)


def _is_dense(value: Tensor) -> bool:
    return value.layout == torch.strided and not (value.is_meta or value.is_quantized or value.is_nested)


def _fault(name: str, value: Tensor, own: Tensor) -> str | None:
    """Return what is wrong with the values of a tensor, and the remedy; None if nothing is."""
    if value.is_meta:
        return "has no values (it was saved from the meta device); load the weights before saving them"
    if value.is_quantized:
        return "is a quantized tensor; save the weights in floating point, as from dequantize()"
    if not _is_dense(value):
        return f"is a sparse tensor ({value.layout}); save it dense, as from to_dense()"
    if name.endswith(BUFFERS_TO_IGNORE) and value.shape != own.shape:
        return f"has shape {_shape(value)}, must have {_shape(own)}"
    if value.is_floating_point() != own.is_floating_point():
        return f"has values of type {value.dtype}, must have {own.dtype}; save the weights in floating point"
    if not own.is_floating_point():
        return None
    if wrong := int((~torch.isfinite(value.to(own.dtype))).sum()):
        return (
            f"has {wrong} NaN or infinite values of {value.numel()}; choose a checkpoint of a training that succeeded"
        )
    if name.endswith("running_var") and bool((value.to(own.dtype) < 0).any()):
        return "has negative values, which are no variances; the checkpoint is damaged: copy or download it again"
    return None


def _misfit(part: Part, network: Network, path: Path) -> UserError:
    """Return the error that names the first difference, and on a second line what was compared, and the remedy."""
    head = [] if network.free else network.needed[-2:]  # weight and bias of the classifier
    is_longer = [_is_longer(part.tensors[name], network.state[name]) for name in part.misshapen if name in head]
    if is_longer == [True, True] and not (part.missing or part.unexpected or part.misshapen[2:]):
        return UserError(
            f"{path}: has {len(part.tensors[head[0]])} classes, the data set {len(network.state[head[0]])}; "
            f"choose another teacher or data set"
        )
    first = (part.misshapen or part.missing or part.unexpected)[0]
    counts = f"{len(part.missing)} keys missing, {len(part.unexpected)} unexpected, {len(part.misshapen)}"
    where = "at its top" if part.key == TOP else f"under {part.key!r}"
    return UserError(
        f"{path}: does not fit {network.arch}: {printable(first)}: expected shape "
        f"{_shape(network.state.get(first))}, found {_shape(part.tensors.get(first))} ({counts} of another shape)\n"
        f"of what is in it, the tensors {where} come closest; name the architecture that they were saved from"
    )


def _is_longer(value: Tensor, own: Tensor) -> bool:
    """Return whether a tensor differs from the network's in its first dimension only, or not at all."""
    return not value.is_nested and value.dim() == own.dim() and value.shape[1:] == own.shape[1:]


def _shape(value: Tensor | None) -> str:
    if value is None:
        return "none"
    return "nested" if value.is_nested else str(list(value.shape))
