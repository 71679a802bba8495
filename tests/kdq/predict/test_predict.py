import csv
import os
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from kdq.__main__ import main
from kdq.data.image_files import RESIZES
from kdq.errors import UserError
from kdq.models import classifier
from kdq.models.classifier import Classifier, Normalization, Signature, build
from kdq.models.evaluate import logits
from kdq.pack.file import load, pack
from kdq.predict.classify import Prediction, Unreadable, predict, predict_files
from kdq.predict.files import find_files
from kdq.quantize.config import QuantizeConfig
from kdq.quantize.model import quantize

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
SIGNATURE = Signature(("red", "gre\tén", "blue"), (6, 8), "RGB")


class Colour(nn.Module):
    """The logits are the means of the channels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def colours(signature: Signature = SIGNATURE) -> Classifier:
    return Classifier("colours", Colour(), 3, Normalization((0.0,) * 3, (1.0,) * 3), signature)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Red, green and blue images in three sizes, one of them in a folder below, and files that are no images."""
    inside = tmp_path / "images"
    (inside / "below").mkdir(parents=True)
    for size, place in ((9, "red.png"), (6, "below/green.png"), (50, "blue.png")):
        Image.new("RGB", (size, 2 * size), COLOURS[Path(place).stem]).save(inside / place)
    (inside / ".hidden.png").write_bytes(b"")
    (inside / "notes.txt").write_text("a note")
    return inside


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    model = build("resnet8", classes=3, normalization=Normalization((0.5,) * 3, (0.25,) * 3), seed=0)
    images = torch.randint(0, 256, (8, 3, 6, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    pack(quantize(model, images, QuantizeConfig(4, "rtn")), tmp_path / "model", SIGNATURE)
    return tmp_path / "model"


def test_probabilities_are_the_softmax_of_the_logits() -> None:
    images = torch.rand(5, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    found = predict(colours(), images)
    torch.testing.assert_close(found, images.mean((2, 3)).softmax(1))
    assert torch.equal(predict(colours(), (255 * images).byte().numpy()).argmax(1), found.argmax(1))


def test_images_are_resized_as_those_that_the_model_was_trained_on(folder: Path) -> None:
    files, _ = find_files([folder])

    def sure(own: str, **given: str) -> list[float]:
        model = colours(replace(SIGNATURE, resize=own))
        return [one.probability for one in predict_files(model, files, **given) if isinstance(one, Prediction)]

    assert sure("pad") == sure("crop", resize="pad") == sure("stretch", resize="pad")
    assert sure("pad") < sure("crop"), "black dilutes the colours"
    assert tuple(RESIZES) == classifier.RESIZES


@pytest.mark.parametrize("resize", [name for name in RESIZES if name != "none"])
def test_the_class_of_every_file_is_predicted_in_order(folder: Path, resize: str) -> None:
    files, others = find_files([folder])
    assert [file.relative_to(folder).as_posix() for file in files] == ["blue.png", "red.png", "below/green.png"]
    assert others == 2
    found = [one for one in predict_files(colours(), files, resize=resize) if isinstance(one, Prediction)]
    assert [one.class_name for one in found] == ["blue", "red", "gre\tén"]
    for one in found:
        assert one.next_probability is not None
        assert one.next_probability <= one.probability
        if resize != "pad":  # which adds black
            assert one.probability == pytest.approx(np.e / (np.e + 2), abs=1e-6)


def test_an_unreadable_file_stands_where_it_was_among_more_than_a_batch(folder: Path) -> None:
    files = [folder / "red.png"] * 40 + [folder / "notes.txt", folder / "nothing"] + [folder / "blue.png"] * 40
    found = list(predict_files(colours(), files))
    assert [one.file for one in found] == files
    assert [isinstance(one, Unreadable) for one in found] == [False] * 40 + [True] * 2 + [False] * 40
    assert {one.class_name for one in found[:40] if isinstance(one, Prediction)} == {"red"}
    assert {one.class_name for one in found[42:] if isinstance(one, Prediction)} == {"blue"}


def test_the_size_must_be_known_once(folder: Path) -> None:
    unknown, files = colours(Signature(SIGNATURE.class_names, None, "RGB")), [folder / "red.png"]
    with pytest.raises(UserError, match="give it by --image-size"):
        predict_files(unknown, files)
    [found] = predict_files(unknown, files, size=(5, 5))
    assert isinstance(found, Prediction)
    assert found.class_name == "red"
    with pytest.raises(UserError, match=r"the model is made for \(6, 8\)"):
        predict_files(colours(), files, size=(5, 5))
    with pytest.raises(UserError, match=r"unknown way to resize 'corp': did you mean 'crop'"):
        predict_files(colours(), files, resize="corp")


def test_a_model_of_other_channels_and_one_of_one_class(folder: Path) -> None:
    other = Classifier("two", nn.Flatten(), 2, Normalization((0.0,) * 2, (1.0,) * 2))
    with pytest.raises(UserError, match="other channels than grey or RGB"):
        predict_files(other, [], size=(1, 1))
    one = Classifier("one", Colour(), 1, Normalization((0.0,), (1.0,)))
    [found] = predict_files(one, [folder / "red.png"], size=(4, 4))
    assert found == Prediction(folder / "red.png", "0", 1.0, None, None)


def test_csv_has_every_name_as_it_is_and_the_models_own_probabilities(
    packed: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = folder / 'odd, "name".png'
    (folder / "red.png").rename(odd)
    assert main(["predict", str(packed), str(folder), "--format", "csv", "--resize", "stretch"]) == 0
    shown, said = capsys.readouterr()
    rows = list(csv.DictReader(StringIO(shown)))
    assert [row["file"] for row in rows] == [str(folder / "blue.png"), str(odd), str(folder / "below/green.png")]
    colour = torch.tensor([COLOURS["blue"], COLOURS["red"], COLOURS["green"]], dtype=torch.uint8)
    wanted = logits(load(packed), colour[:, :, None, None].expand(3, 3, 6, 8)).softmax(1)
    for row, chances in zip(rows, wanted, strict=True):
        assert row["class"] == SIGNATURE.class_names[int(chances.argmax())]
        assert float(row["probability"]) == pytest.approx(chances.max().item(), abs=1e-5)
        assert row["next_class"] != row["class"]
    assert said == "skipped: 2 other than image files in the folders, by their names\n"


def test_the_table_comes_first_then_a_line_for_every_bad_file_and_status_2(
    packed: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "zero.png").write_bytes(b"")
    (folder / "line\nbreak.png").write_text("text")
    assert main(["predict", str(packed), str(folder), str(folder / "nowhere.png")]) == 2
    shown, said = capsys.readouterr()
    head, *rows = shown.splitlines()
    assert head.split() == ["file", "class", "probability", "next", "best"]
    assert len(rows) == 3
    assert all(row.count(" %") == 2 for row in rows)
    assert "\t" not in shown
    reasons = [line for line in said.splitlines() if line.startswith("error: ")]
    assert reasons == [
        f"error: {folder}/line?break.png: is no image that Pillow reads, or damaged",
        f"error: {folder}/zero.png: is no image that Pillow reads, or damaged",
        f"error: {folder}/nowhere.png: does not exist",
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse names that are not UTF-8")
def test_names_of_files_may_be_in_any_encoding(
    packed: Path, folder: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = os.fsencode(folder) + b"/caf\xe9.png"
    os.rename(folder / "red.png", name)  # noqa: PTH104  (a path of bytes)
    monkeypatch.setattr(sys, "stdout", open(1, "w", encoding="ascii", closefd=False))  # noqa: SIM115
    for form in ("csv", "table"):
        assert main(["predict", str(packed), os.fsdecode(name), "--format", form]) == 0
        sys.stdout.flush()
        shown = capfdbinary.readouterr().out
        assert (b"caf\xe9.png" in shown) == (form == "csv")
        assert (b"caf?.png" in shown) == (form == "table")


@pytest.mark.parametrize("name", ["clip.mpg", "drawing.eps", "drawing.wmf", "field.grib", "news.iim"])
def test_formats_that_are_not_decoded_are_no_images_of_a_folder(name: str, folder: Path) -> None:
    before, others = find_files([folder])
    (folder / name).write_bytes(b"x")
    assert find_files([folder]) == (before, others + 1)


def test_mistakes_are_one_line_and_status_2(packed: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "empty").mkdir()
    for arguments, reason in (
        ([str(folder / "nothing"), str(folder)], "images/nothing: cannot be read (No such file or directory"),
        ([str(folder / "notes.txt"), str(folder)], "damaged, or not a packed model"),
        ([str(packed), str(folder / "empty")], "empty: holds no image files (0 others)"),
        ([str(packed), str(folder), "--image-size", "7"], "image size (7, 7): the model is made for (6, 8)"),
    ):
        assert main(["predict", *arguments]) == 2
        shown, said = capsys.readouterr()
        assert shown == ""
        assert said.startswith("error: ")
        assert reason in said
        assert said.count("\n") == 1


def test_help_lists_every_way_to_resize(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    assert f"--resize {{{','.join(RESIZES)}}}" in capsys.readouterr().out


@pytest.mark.parametrize("size", ["0x8", "8x8x8", "-1", "x", "99999", "٣"])
def test_odd_sizes_are_refused(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["predict", "model", "image", f"--image-size={size}"])
    assert ended.value.code == 2
    assert "must be pixels, such as 224 or 224x320" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize(("output", "status"), [("/dev/full", 2), ("/dev/null", 0)])
def test_output_that_cannot_be_written_is_an_error(packed: Path, folder: Path, output: str, status: int) -> None:
    """As on a full disk: one line, status 2, and nothing at the interpreter's end."""
    command = [sys.executable, "-m", "kdq", "predict", str(packed), str(folder / "red.png")]
    with Path(output).open("w") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == status
    assert done.stderr == ("error: [Errno 28] No space left on device\n" if status else "")


def test_ctrl_c_ends_a_command_without_a_traceback(
    packed: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kdq.predict.command.run", Mock(side_effect=KeyboardInterrupt))
    assert main(["predict", str(packed), str(folder)]) == 130
    assert capsys.readouterr().err == "interrupted\n"
