"""`trials`: how every trial ended, and why; what it trained, and its accuracy at each width."""

import argparse
from typing import TYPE_CHECKING

from analysis.commands.command import add_studies, read_studies

if TYPE_CHECKING:
    from analysis.formats import Report

NAME, PURPOSE = "trials", "print how every trial ended, and why; its epochs, seconds and accuracies"
FORMATS: tuple[str, ...] = ("table", "csv", "json", "markdown", "latex")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_studies(parser)


def run(options: argparse.Namespace) -> "Report":
    from analysis.trials_report import report

    return report(read_studies(options))
