"""The command line: `python study/run.py --space NAME [--workload NAME] …` runs a study."""

import os
import sys
from pathlib import Path

# When run as a script, this file's folder is first on the path: replace it by the project's root.
sys.path[0:1] = [str(Path(__file__).parents[1])] if __name__ == "__main__" else sys.path[0:1]

from kdq import plugins  # noqa: E402
from kdq.errors import UserError  # noqa: E402
from study.commands.options import PruneOptions, RunOptions, parse  # noqa: E402
from study.console.output import lasting_output  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status.

    0: completed; 1: trials failed; 2: an error for the user to fix, such as a wrong option or a store, disk or Ray
    that failed; 128 + the signal's number: interrupted, so 130 by Ctrl-C.
    """
    options = parse(arguments)
    # Idle OpenMP threads must sleep: otherwise two torch processes on two cores slow each other down tenfold.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    with lasting_output():
        return _run(options)


def _run(options: RunOptions | PruneOptions) -> int:
    try:
        plugins.load_all(options.plugin)
        if isinstance(options, PruneOptions):
            from study.commands.prune import prune

            return prune(options)
        from study.space.load import load_space

        space_changes, workload_changes = options.changes()
        space = load_space(options.space, space_changes)

        from study.commands.run import run  # imports torch, so errors in the space are reported first

        return run(options, space, workload_changes)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # before a study starts, in a dry run, while pruning
        from study.console.failures import full_text, likely_cause

        print(f"error: {error}", likely_cause(full_text(error)) or "the cause is unknown", sep="\n", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        from study.console.summary import interrupted

        print(interrupted(options.arguments()), file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
