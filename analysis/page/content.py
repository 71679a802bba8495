"""What the page says in words and tables, which are there without scripts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis import front_report, method_report, trials_report
from analysis.answer import Budget, answer
from analysis.answer_report import report
from analysis.formats import Report
from analysis.progress import rung_summary, rungs
from analysis.results import Results
from analysis.volumes import common_objective
from kdq.bits import BIT_WIDTHS, bits_name
from kdq.errors import UserError
from study.results.front import largest
from study.results.status import TrialStatus

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Section:
    """A table with a title and a line on what it shows."""

    title: str
    purpose: str
    report: Report

    @property
    def rows(self) -> Sequence[Mapping[str, object]]:
        """The rows as people read them."""
        return self.report.display or self.report.rows

    @property
    def columns(self) -> list[str]:
        """The columns that are not empty."""
        names = list(self.report.display[0]) if self.report.display else self.report.columns
        return [name for name in names if any(row.get(name) not in (None, "") for row in self.rows)]


def headline(results: Results) -> str:
    """Return the answer of a study without a limit of bits, as `analysis best` prints it; why not, if there is none."""
    try:
        budget = Budget(max_bits=max((largest(group, "total_bits") for group in results.groups), default=1))
        return report(results, budget, answer(results, budget)).text
    except UserError as error:
        return str(error)


def trials(studies: Sequence[Results]) -> Section:
    """Return the table of all trials, in the order of the data's."""
    found = trials_report.report(studies)
    names = {f"val_top1_{bits}bit": f"{bits_name(bits)} %" for bits in BIT_WIDTHS}
    columns = {name: names.get(name, name) for name in found.columns if name != "trial_id"}
    rows = [
        {shown: row.get(name) for name, shown in columns.items()}
        | {"trial": row["trial"] or row["trial_id"], "status": _words(row["status"])}
        for row in found.rows
    ]
    return Section("Trials", "", Report(list(columns.values()), rows, formats=found.formats))


def _words(status: str) -> str:
    return status.replace("_", " ")


def stopping(studies: Sequence[Results]) -> "pandas.DataFrame | None":
    """Return the rungs of the studies whose scheduler stops trials; None if there is none."""
    import pandas

    found = []
    for each in studies:
        try:
            found.append(rungs([each]))
        except UserError:  # it has no scheduler that stops trials
            continue
    return pandas.concat(found) if found else None


def sections(studies: Sequence[Results], stopped: "pandas.DataFrame | None") -> list[Section]:
    """Return the tables below the pictures. stopped: see `stopping`."""
    found = [
        Section(
            "The front",
            f"The configurations that no other beats in both validation {common_objective(studies).title} and total "
            f"bits; means over seeds.",
            _front(studies),
        ),
        Section(
            "Methods and widths",
            "The best configuration of each method at each width.",
            method_report.report(studies, "method", "bits", "val", None),
        ),
        Section(
            "Rungs",
            "What the scheduler stopped at which epoch, and whether ranks there agree with those at the end.",
            Report(_RUNGS, [] if stopped is None else rung_summary(stopped)),
        ),
        Section(
            "What failed, and why", "Trials that ended without a result, or before the last epoch.", _failed(studies)
        ),
        Section("Provenance", "What made these numbers.", _provenance(studies)),
    ]
    return [section for section in found if section.report.rows]


_RUNGS = ("study", "rung", "trials", "stopped", "completed", "kendall", "spearman")


def _front(studies: Sequence[Results]) -> Report:
    found = front_report.report(studies)
    rows = [{**row, "bits": bits_name(row["bits"])} for row in found.rows]
    columns = [name for name in found.columns if name != "avg_bits"]
    return Report(columns, rows, found.notes)


def _failed(studies: Sequence[Results]) -> Report:
    rows = [
        {"study": each.name, "trial": trial.name or trial.id, "status": _words(trial.status), "reason": trial.reason}
        for each in studies
        for trial in each.trials
        if trial.status is not TrialStatus.COMPLETED
    ]
    return Report(("study", "trial", "status", "reason"), rows)


def _provenance(studies: Sequence[Results]) -> Report:
    rows = []
    for each in studies:
        inputs = each.study.document.get("inputs", {})
        facts = {
            "command": each.study.command,
            "state": str(each.study.status),
            "data": each.study.workload.get("dataset"),
            "data fingerprint": inputs.get("data"),
            **each.store.provenance(each.study),
        }
        rows += [{"study": each.name, "what": what, "value": value} for what, value in facts.items() if value]
    return Report(("study", "what", "value"), rows)
