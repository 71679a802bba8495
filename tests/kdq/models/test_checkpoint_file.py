"""Checkpoint files: what is no checkpoint is named by what it is, and damage is refused."""

import argparse
import gzip
import hashlib
import os
import resource
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as safetensors_bytes
from torch import nn

from kdq.errors import UserError
from kdq.models.checkpoint import Checkpoint, load, save
from kdq.models.checkpoint_file import identity, read
from kdq.models.classifier import Normalization, build

GREY = Normalization((0.5,), (0.25,))
MODEL = build("resnet8", classes=10, normalization=GREY, seed=5)
STATE = MODEL.net.state_dict()


def saved(content: object, legacy: bool = False) -> bytes:
    stream = BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def script() -> bytes:
    stream = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of torch warn of it
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), stream)
    return stream.getvalue()


def numpy_file(write: Callable[..., None]) -> bytes:
    stream = BytesIO()
    write(stream, np.ones(3))
    return stream.getvalue()


def archive() -> bytes:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("README", "text")
    return stream.getvalue()


def old_tar() -> bytes:
    """As the first versions of torch saved."""
    stream = BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as file:
        file.addfile(tarfile.TarInfo("sys_info"))
    return stream.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"

FOREIGN: dict[str, tuple[Callable[[], bytes], str]] = {
    "LFS pointer": (lambda: LFS, r"a git-LFS pointer to the file\); .*git lfs pull"),
    "web page": (lambda: b"\n <!DOCTYPE html>\n<html>", r"a web page\); download the file itself"),
    "web page with a mark of its encoding": (lambda: b"\xef\xbb\xbf<HTML>", "a web page"),
    "XML": (lambda: b"<?xml version='1.0'?><Error>", "a web page"),
    "compressed": (lambda: gzip.compress(saved(STATE)), r"compressed\); unpack it"),
    "HDF5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file"),
    "NumPy": (lambda: numpy_file(np.save), "a NumPy array"),
    "NumPy archive": (lambda: numpy_file(np.savez), r"a zip archive that torch\.save did not write"),
    "archive": (archive, r"a zip archive that torch\.save did not write"),
    "TorchScript": (script, r"a TorchScript archive.*torch\.jit\.load\(\"a\.\w+\"\)\.state_dict"),
    "empty": (lambda: b"", r"empty\); copy or download it again"),
    "text": (lambda: b"Not Found\n", r"text\); download the file itself"),
    "JSON": (lambda: b'{"error": "no access"}', r"text\); download the file itself"),
    "zeros": (lambda: bytes(999), r"begins with zeros, as an incomplete download does\); copy or download it again"),
    "tar": (old_tar, "(of an old format, .* save the weights alone|header too large)"),
    "another pickle": (lambda: b"\x80\x04\x95", "truncated, damaged or of another kind: "),
}


@pytest.mark.parametrize("suffix", ["th", "safetensors"])
@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_checkpoint_is_named(name: str, suffix: str, tmp_path: Path) -> None:
    make, message = FOREIGN[name]
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(make())
    with pytest.raises(UserError, match=rf"^{path}: not a valid checkpoint of plain tensors \(.*{message}") as raised:
        read(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["a.th", "a.safetensors", "a"])
@pytest.mark.parametrize(
    "content",
    [saved(STATE), saved(STATE, legacy=True), safetensors_bytes(dict(STATE))],
    ids=["PyTorch", "an early PyTorch", "safetensors"],
)
def test_the_format_is_that_of_the_content_not_of_the_name(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    loaded = load(Checkpoint("resnet8", tmp_path / name), classes=10, normalization=GREY)
    assert all(torch.equal(value, STATE[key]) for key, value in loaded.net.state_dict().items())


class Unpicklable:
    """An object whose class is not among those that weights_only allows."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.getenv, ("x",)


OBJECTS: dict[str, tuple[object, str]] = {
    "a NumPy array": (np.ones(3), r"numpy\._core\.multiarray\._reconstruct"),
    "a path": (Path("x"), r"pathlib\.\S*Path"),
    "a model": (nn.Sequential(nn.ReLU()), r"torch\.nn\.modules\.container\.Sequential"),
    "a call": (Unpicklable(), r"os\.getenv"),
    "a call in arguments": (argparse.Namespace(a=Unpicklable()), r"os\.getenv"),
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", OBJECTS)
def test_a_class_that_is_not_allowed_is_named_with_the_line_that_saves_the_weights(
    name: str, legacy: bool, tmp_path: Path
) -> None:
    value, message = OBJECTS[name]
    path = tmp_path / "a.pt"
    path.write_bytes(saved({"state_dict": STATE, "extra": value}, legacy))
    with pytest.raises(UserError, match=rf"it holds an object of {message}, which is refused") as raised:
        read(path)
    text = str(raised.value)
    assert text.endswith('torch.save(model.state_dict(), "weights.pt")')
    assert text.isprintable()
    assert "weights_only" not in text


BESIDE: dict[str, object] = {
    "arguments": argparse.Namespace(lr=0.1, betas=(0.9, 0.99), inner=argparse.Namespace()),
    "NumPy numbers": [np.float64(91.7), np.float32(1), np.int64(3), np.bool_(True), np.str_("a")],
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", BESIDE)
def test_what_training_scripts_save_beside_the_weights_is_passed_over(name: str, legacy: bool, tmp_path: Path) -> None:
    """No attribute of such an object is set, nor any function of NumPy called: a file may be made up."""
    path, extra, allowed = tmp_path / "a.pt", BESIDE[name], torch.serialization.get_safe_globals()
    path.write_bytes(saved({"state_dict": STATE, "extra": extra}, legacy))
    found = read(path)
    assert isinstance(found, dict)
    assert all(not vars(item) for item in (found["extra"] if isinstance(extra, list) else [found["extra"]]))
    loaded = load(Checkpoint("resnet8", path), classes=10, normalization=GREY)
    assert all(torch.equal(value, STATE[key]) for key, value in loaded.net.state_dict().items())
    assert torch.serialization.get_safe_globals() == allowed


def test_folders_and_odd_paths_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message in {
        tmp_path: "a folder; give ARCH:PATH",
        tmp_path / "nowhere": "there is no such checkpoint",
        tmp_path / "pipe": "no regular file",
        tmp_path / "pipe" / "a.pt": "there is no such checkpoint",
        tmp_path / ("x" * 300): "File name too long",
    }.items():
        for reader in (read, identity):
            with pytest.raises(UserError, match=message):
                reader(path)


def test_a_published_file_is_compared_with_the_checksum_in_its_name(tmp_path: Path) -> None:
    content = saved(STATE, legacy=True)
    digits = hashlib.sha256(content).hexdigest()
    good, bad = (tmp_path / f"resnet8-{digits[start : start + 12]}.th" for start in (0, 20))
    for path in (good, bad):
        path.write_bytes(content)
    read(good)
    with pytest.raises(UserError, match=r"its SHA-256 begins with \w{12}, not with \w{12} as its name says.*rename"):
        read(bad)
    for name in ("resnet8-20250131.th", "resnet8-abc.th", "resnet8-epoch_12.th"):  # a date, a word
        read(good.rename(tmp_path / name))
        (tmp_path / name).rename(good)


@cache
def files() -> dict[str, bytes]:
    """Checkpoints with a checksum. The smallest have only a few tensors, so that most of their bytes are structure."""
    stream = BytesIO()
    few: dict[str, Any] = {"state_dict": {"a": torch.arange(3.0), "b": torch.arange(2)}, "epoch": 3}
    torch.save(few, stream)
    return {"zip": saved({"state_dict": STATE, "epoch": 3}), "small zip": stream.getvalue()}


def flat(content: Any) -> list[Any]:
    if isinstance(content, dict):
        return [item for key, value in content.items() for item in (key, *flat(value))]
    return [(content.dtype, content.tolist())] if isinstance(content, torch.Tensor) else [content]


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["zip", "small zip"]), place=st.floats(0, 1, exclude_max=True))
@example(name="zip", place=0.5)
def test_a_zip_with_any_bit_flipped_is_refused_or_the_same(name: str, place: float, tmp_path: Path) -> None:
    content = bytearray(files()[name])
    byte, bit = divmod(int(place * 8 * len(content)), 8)
    content[byte] ^= 1 << bit
    (tmp_path / "a.th").write_bytes(content)
    (tmp_path / "whole.th").write_bytes(files()[name])
    try:
        found = read(tmp_path / "a.th")
    except UserError as error:
        assert "not a valid checkpoint of plain tensors" in str(error)  # noqa: PT017  (either outcome is right)
    else:
        assert flat(found) == flat(read(tmp_path / "whole.th"))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), in_head=st.booleans())
def test_a_saved_classifier_with_any_bit_flipped_is_refused_or_the_same(
    place: float, in_head: bool, tmp_path: Path
) -> None:
    if not (tmp_path / "whole.safetensors").exists():
        save(MODEL, tmp_path / "whole.safetensors")
    content = bytearray((tmp_path / "whole.safetensors").read_bytes())
    head = 8 + int.from_bytes(content[:8], "little")
    byte, bit = divmod(int(place * 8 * (head if in_head else len(content))), 8)
    content[byte] ^= 1 << bit
    (tmp_path / "a.safetensors").write_bytes(content)
    spec = Checkpoint("resnet8", tmp_path / "a.safetensors")
    try:
        loaded = load(spec, classes=10, normalization=Normalization((0.1,), (0.2,)))
    except UserError as error:
        assert str(spec.path) in str(error)  # noqa: PT017  (either outcome is right)
    else:
        assert loaded.normalization == GREY
        assert all(torch.equal(value, STATE[key]) for key, value in loaded.net.state_dict().items())


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["zip", "small zip"]), cut=st.floats(0, 1, exclude_max=True))
def test_a_zip_cut_anywhere_is_refused(name: str, cut: float, tmp_path: Path) -> None:
    content = files()[name]
    (tmp_path / "a.th").write_bytes(content[: int(cut * len(content))])
    with pytest.raises(UserError, match="not a valid checkpoint of plain tensors"):
        read(tmp_path / "a.th")


def test_a_file_saved_before_there_was_a_digest_is_read(tmp_path: Path) -> None:
    old = safetensors_bytes(dict(STATE), {"normalization": '{"mean": [0.5], "std": [0.25]}'})
    (tmp_path / "a.safetensors").write_bytes(old)
    spec = Checkpoint("resnet8", tmp_path / "a.safetensors")
    assert load(spec, classes=10, normalization=Normalization((0.1,), (0.2,))).normalization == GREY


def test_a_checkpoint_that_cannot_be_written_leaves_the_former_one(tmp_path: Path) -> None:
    save(MODEL, tmp_path / "a.safetensors")
    before = (tmp_path / "a.safetensors").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # as if the disk were full
    try:
        with pytest.raises(OSError, match="File too large"):
            save(MODEL, tmp_path / "a.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "a.safetensors").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
