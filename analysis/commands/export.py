"""`export`: the recommended model of a study in another format, checked on the study's validation images."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.commands.command import add_budget, add_study, read_budget, read_study

if TYPE_CHECKING:
    from analysis.formats import Report

NAME = "export"
PURPOSE = "write the model that `best` recommends as onnx, torch or safetensors, with a model card"
FORMATS: tuple[str, ...] = ("table", "csv", "json", "markdown", "latex")
COLUMNS = ("file", "configuration", "bits", "packed_bytes", "exported_bytes", "images", "packed_top1", "exported_top1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_study(parser)
    add_budget(parser)
    add = parser.add_argument
    add("--to", choices=("onnx", "torch", "safetensors"), default="onnx", help="format (default: onnx)")
    add("--file", type=Path, metavar="FILE", help="the exported file (default: STUDY-WIDTH.FORMAT here)")
    add("--data-dir", type=Path, metavar="DIR", help="folder with the data set (default: the one that the study used)")


def run(options: argparse.Namespace) -> "Report":
    from analysis.answer import answer
    from analysis.formats import Report
    from analysis.results import label
    from analysis.take_away import SUFFIXES, export_group
    from kdq.errors import UserError

    if options.output and options.output.suffix in SUFFIXES.values():
        raise UserError(
            f"--output {options.output}: is a file for what this command prints; the model's is --file {options.output}"
        )
    results = read_study(options)
    found = answer(results, read_budget(options))
    group = found.recommended or found.best
    exported = export_group(results, group, options.to, options.file, options.data_dir)
    row = {
        "file": str(exported.path),
        "configuration": label(group),
        "bits": group.bits,
        "packed_bytes": exported.packed_bytes,
        "exported_bytes": exported.exported_bytes,
        "images": exported.check.images,
        "packed_top1": exported.check.packed_top1,
        "exported_top1": exported.check.exported_top1,
    }
    notes = [f"model card: {exported.card}"]
    if found.recommended is None:
        notes.append("`analysis best` recommends none, and says why: this is the configuration that it names first")
    return Report(COLUMNS, [row], notes)
