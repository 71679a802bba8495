"""Stages whose files are not what was written: refused by the name of their folder."""

import json
from pathlib import Path

from kdq.errors import UserError, first_line
from kdq.store.stage import Json


def damaged(folder: Path, what: str) -> UserError:
    """Return the error that names a damaged stage, `what` is wrong with it, and the remedy."""
    return UserError(
        f"{folder}: damaged stage ({what}); remove this folder, and run the same command again, which makes it anew"
    )


def read_json(file: Path) -> Json:
    """Return the JSON in a file of a stage. Raises UserError for other content, OSError if it cannot be read."""
    try:
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise damaged(file.parent, f"{file.name}: {type(error).__name__}: {first_line(error)}") from error
