"""The command line: `python -m kdq predict|export|check-plugin`."""

import os
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdq import plugins
from kdq.errors import UserError, quoted

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    Commands = _SubParsersAction[ArgumentParser]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status: 0; 2 after an error, printed in one line; 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    options.arguments = arguments
    try:
        plugins.load_all(options.plugin)
        if options.command == "check-plugin":
            from kdq.conformance.command import run
        elif options.command == "predict":
            from kdq.predict.command import run
        else:
            from kdq.export.command import run
        status = run(options)
        print(end="", flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        return _lost_output(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return status


def _lost_output(error: OSError) -> int:
    """Return the exit status after an error of the disk, or of standard output, of which the rest goes nowhere."""
    if sys.stdout is sys.__stdout__ and sys.stdout:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has closed the pipe
        return 0
    print(f"error: {error}", file=sys.stderr)
    return 2


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m kdq", description="Use a packed model (model.safetensors of a point), or check a plugin."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_predict(commands)
    _add_export(commands)
    _add_check(commands)
    return parser


def _add_predict(commands: "Commands") -> None:
    purpose = "print the classes that a packed model predicts for images"
    note = (
        "Any file that Pillow reads, of any size and mode: upright as its EXIF data say, the first frame of an "
        "animation, transparent pixels on white. Files that are not readable are listed at the end, with status 2."
    )
    command = commands.add_parser("predict", help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}. {note}")
    command.add_argument("model", type=Path, metavar="MODEL", help="file written by kdq.pack")
    command.add_argument(
        "images", type=Path, nargs="+", metavar="IMAGE|FOLDER", help="files, and folders that are searched for images"
    )
    command.add_argument("--format", choices=("table", "csv"), default="table", help="default: table")
    resize = (
        "how an image gets the model's size, by default as the images that it was trained on: crop resizes the "
        "shorter side and cuts out the centre; stretch resizes both sides; pad resizes the longer side and adds black; "
        "none refuses images of another size"
    )
    command.add_argument("--resize", choices=("crop", "stretch", "pad", "none"), help=resize)
    _add_model_options(command)


def _add_export(commands: "Commands") -> None:
    purpose = "write a packed model as a file for other programs, and a model card"
    note = (
        "onnx: integer weights with DequantizeLinear, for onnxruntime and others; torch: a program of torch.export "
        "(.pt2) with real weights; safetensors: real weights alone. The exported model is run and compared with the "
        "packed one before it is written."
    )
    command = commands.add_parser("export", help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}. {note}")
    command.add_argument("model", type=Path, metavar="MODEL", help="file written by kdq.pack")
    command.add_argument("--to", choices=("onnx", "torch", "safetensors"), required=True, help="format")
    command.add_argument("--output", type=Path, required=True, metavar="FILE", help="the card is FILE.md")
    dataset = (
        "compare accuracies on the test images of this data set, a name, folder:DIR, parquet:DIR or torchvision:NAME "
        "(default: compare logits on random images)"
    )
    command.add_argument("--dataset", metavar="NAME", help=dataset)
    command.add_argument("--data-dir", type=Path, metavar="DIR", help="folder with the files of the data set")
    _add_model_options(command)


def _add_check(commands: "Commands") -> None:
    purpose = "check what a plugin adds"
    note = (
        "Every method, quantizer, data set, model, scheduler and searcher that it registers has to keep our promises."
    )
    command = commands.add_parser("check-plugin", help=purpose, description=f"{purpose.capitalize()}. {note}")
    command.add_argument("plugin", type=Path, nargs=1, metavar="FILE.py", help="see docs/plugins.md")


def _add_plugin(command: ArgumentParser) -> None:
    plugin = "Python file that adds the model's architecture, or the data set (docs/plugins.md)"
    command.add_argument("--plugin", action="append", default=[], type=Path, metavar="FILE.py", help=plugin)


def _add_model_options(command: ArgumentParser) -> None:
    _add_plugin(command)
    size = "pixels a side, or HEIGHTxWIDTH, of the model's images, where its file does not say (format 3)"
    command.add_argument("--image-size", type=_size, metavar="N", help=size)
    code = "Python file of a model python:FILE.py:FUNCTION; it is run, so name only one that you trust"
    command.add_argument("--code", type=Path, metavar="FILE", help=code)


def _size(text: str) -> tuple[int, int]:
    sides = text.split("x")
    if not 1 <= len(sides) <= 2 or not all(re.fullmatch("[1-9][0-9]{0,3}", side) for side in sides):
        raise ArgumentTypeError(f"{quoted(text)}: must be pixels, such as 224 or 224x320")
    return int(sides[0]), int(sides[-1])


if __name__ == "__main__":
    sys.exit(main())
