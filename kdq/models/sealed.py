"""Sealed files: safetensors files that contain the SHA-256 of their own content, since safetensors has no checksum.

The metadata has one entry, NAME: JSON of fields, one of which, `sha256`, covers NAME, the other fields and all
tensors. It is part of the header, not of the tensors' bytes.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from kdq.store.files import publish
from kdq.store.stage import Json, canonical

SEAL = "sha256"


def write_sealed(path: Path, name: str, fields: Mapping[str, Json], tensors: Mapping[str, Tensor]) -> None:
    """Write the tensors and the fields, with their digest, under one metadata entry called `name`.

    Raises OSError, leaving an existing file as it was, if they cannot be written, as on a full disk.
    """
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    sealed = {**fields, SEAL: digest(name, fields, plain)}
    # One metadata entry: safetensors writes several in random order, and the same weights must give the same bytes.
    # Written by Python, since safetensors' own writer reports a full disk as an error of its own.
    publish(path, save(plain, metadata={name: json.dumps(sealed, sort_keys=True)}))


def find_seal(metadata: Mapping[str, str]) -> tuple[str, dict[str, Json]] | None:
    """Return name and fields of the sealed entry in a file's metadata, by whatever name; None if there is none."""
    for name, text in metadata.items():
        try:
            fields = json.loads(text) if f'"{SEAL}"' in text else None
        except (ValueError, RecursionError):
            continue
        if isinstance(fields, dict) and SEAL in fields:
            return name, fields
    return None


def is_intact(name: str, fields: Mapping[str, Json], tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the digest among the fields is that of the name, the other fields and the tensors."""
    try:
        return bool(fields[SEAL] == digest(name, {key: fields[key] for key in fields if key != SEAL}, tensors))
    except (ValueError, RecursionError):  # fields that JSON reads and does not write, such as NaN
        return False


def digest(name: str, fields: Mapping[str, Json], tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a name, of fields, and of tensors on the CPU with their names, types and shapes.

    Raises ValueError for fields that are not JSON.
    """
    found = sha256(canonical([name, dict(fields)]).encode())
    for key in sorted(tensors):
        value = tensors[key].contiguous()
        found.update(canonical([key, str(value.dtype), list(value.shape)]).encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
