"""The command line: `python study/run.py --space NAME [--workload NAME] …` runs a study."""

import os
import sys
from pathlib import Path

# As a script this file's folder is first on the path; the project is the folder above it.
sys.path[0:1] = [str(Path(__file__).parents[1])] if __name__ == "__main__" else sys.path[0:1]

from kdq.errors import UserError  # noqa: E402
from study.commands.options import given_beside_prune, make_parser, settings  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Returns the exit status: 0 done, 1 trials failed, 130 interrupted, 2 for what a user has to mend: a mistake, or a
    store, disk or Ray that failed.
    """
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.prune is not None and (others := given_beside_prune(parser, options)):
        parser.error(f"--prune: not with {', '.join(others)}; it takes --yes, --dry-run and --storage-path")
    if options.yes and options.prune is None:
        parser.error("--yes: only with --prune")
    options.given = sys.argv[1:] if arguments is None else arguments
    # Idle OpenMP threads must sleep: two torch processes on two cores else slow each other down tenfold.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        if options.prune is not None:
            from study.commands.prune import prune
            from study.plan.resources import root_folder

            agreed = False if options.dry_run else options.yes or None
            prune(options.prune, root_folder(options.storage_path), agreed)
            return 0
        from study.space.load import load_space

        space_settings, workload_settings = settings(options)
        space = load_space(options.space, space_settings)

        from study.commands.run import conduct  # torch comes with it: a mistake in the space is said before

        return conduct(options, space, workload_settings)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        from study.console.summary import interrupted

        print(interrupted(options.given), file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
