"""The command line: `python -m analysis COMMAND`, with a module of `analysis.commands` for each command."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.commands import (
    best,
    compare,
    effect,
    export,
    front,
    heatmap,
    hypervolume,
    importance,
    listing,
    points,
    record,
    replay,
    report,
    rungs,
    table,
    trials,
)
from analysis.commands.command import Command
from kdq import plugins
from kdq.errors import UserError

COMMANDS: Sequence[Command] = (
    *(
        best,
        report,
        front,
        table,
        compare,
        importance,
        effect,
        heatmap,
        export,
        points,
        trials,
        hypervolume,
        rungs,
        record,
        replay,
        listing,
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status: 0; 2 after a UserError, printed in one line; 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        plugins.load_all(options.plugin)
        from analysis.formats import render

        text = render(options.run(options), options.format)
        if options.output:
            _write(options.output, text)
        else:
            _print(text)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _write(path: Path, text: str) -> None:
    from kdq.store.files import publish

    try:
        publish(path, (text.rstrip("\n") + "\n").encode())
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def _print(text: str) -> None:
    try:
        print(text.rstrip("\n"), flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is buffered goes nowhere
        if not isinstance(error, BrokenPipeError):  # else the reader, such as `head`, has closed the pipe
            raise UserError(f"cannot write to standard output: {error.strerror}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis", description="Analyse studies logged to MLflow.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    where = "tracking store (default: $MLFLOW_TRACKING_URI, or sqlite:///mlruns/mlflow.db)"
    plugin = "Python file whose methods or schedulers the studies use (docs/plugins.md)"
    for command in COMMANDS:
        own = commands.add_parser(command.NAME, help=command.PURPOSE, description=command.PURPOSE)
        command.add_arguments(own)
        forms = command.FORMATS
        own.add_argument("--format", choices=forms, default=forms[0], help=f"default: {forms[0]}")
        own.add_argument("--output", type=Path, metavar="FILE", help="write to this file instead of the terminal")
        own.add_argument("--plugin", action="append", default=[], type=Path, metavar="FILE.py", help=plugin)
        own.add_argument("--tracking-uri", metavar="URI", help=where)
        own.set_defaults(run=command.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
