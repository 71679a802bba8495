"""The dry run: what a study would do and cost, as far as known before it starts."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdq.data.sources import needs_download
from kdq.errors import UserError
from study.commands.extend import check, check_retry
from study.commands.options import RunOptions
from study.commands.site import Site, check_ray
from study.control.journal import Journal
from study.paths import MAKE_WRITABLE
from study.plan import estimate_disk, estimate_time
from study.plan.plan import Plan
from study.plan.precision import settle
from study.tracking.database import is_made
from study.tracking.uri import is_sqlite, sqlite_path
from study.trial.check_inputs import check_inputs


def describe(name: str, plan: Plan, options: RunOptions) -> str:
    """Return trials, students, points, time and disk space as text; raise UserError where a run would fail."""
    site = Site.at(options)
    check_ray()
    _check_writable(site.root)
    before = _former_settings(name, options, site)
    plan, precision = settle(plan, site.resources.device, before)
    if before:
        check(name, before, plan, extend=options.extend)
    check_inputs(plan, options.data_dir, site.root)
    lines = [*([precision] if precision else []), estimate_time.describe(name, plan, site.slots)]
    if options.extend or options.retry_failed:
        lines.append("(for the whole study from scratch; finished results are reused)")
    downloads = needs_download(plan.workload.data, options.data_dir)
    return "\n".join([*lines, estimate_disk.describe(plan, site.slots, downloads=downloads)])


def _check_writable(folder: Path) -> None:
    """Raise UserError if a folder, or the nearest folder around one that does not exist yet, is not writable."""
    try:
        nearest = next(each for each in (folder, *folder.parents) if each.exists())
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise UserError(f"{folder} is not writable: {error}; {MAKE_WRITABLE}") from None


def _former_settings(name: str, options: RunOptions, site: Site) -> Mapping[str, Any] | None:
    """Return the settings of the study if it exists; raise UserError if it, or its store, cannot be used."""
    journal = Journal(site.root / "studies" / name / "journal.jsonl")
    if options.retry_failed:
        check_retry(name, journal)
    journal.read()  # raises if it is damaged
    if is_sqlite(site.tracking_uri):
        file = sqlite_path(site.tracking_uri)
        _check_writable(file.parent)
        if not is_made(file):
            return None  # without MLflow, whose import takes seconds
        if not os.access(file, os.W_OK):
            raise UserError(f"{file} is not writable; make it writable, or give another --tracking-uri")
    from study.tracking.experiment import find_document

    before = find_document(site.tracking_uri, name)
    return before["settings"] if before else None
