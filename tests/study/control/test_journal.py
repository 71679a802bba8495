import math
import re
from pathlib import Path

import pytest

from kdq.errors import UserError
from study.control.journal import Asked, Ended, Extended, Journal, Left, Record, Reported, Retried
from study.results.status import TrialStatus
from study.schedulers.scheduler import Decision

RECORDS: list[Record] = [
    Asked("a"),
    Asked(None),
    Reported.of("t", 3, [(81.5, 1024.0), (math.nan, 32.0)], Decision.PAUSE),
    Left("t"),
    Ended("t", TrialStatus.COMPLETED, "", (81.5, 1024.0)),
    Ended("u", TrialStatus.DIVERGED, "in epoch 2", None),
    Retried("u"),
    Extended({"seeds": [0], "space": {"trials": None}}),
]


def journal(folder: Path) -> Journal:
    made = Journal(folder / "deep" / "journal.jsonl")
    for record in RECORDS:
        made.append(record)
    return made


def test_records_come_back_in_order(tmp_path: Path) -> None:
    assert Journal(tmp_path / "none").read() == []
    assert journal(tmp_path).read() == RECORDS


def test_a_torn_last_line_never_took_effect(tmp_path: Path) -> None:
    made = journal(tmp_path)
    whole = made.path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):
        made.path.write_bytes(whole[:cut])
        kept = whole[:cut].count(b"\n")
        assert made.read() == RECORDS[:kept]
        assert made.path.read_bytes() == whole[:cut], "a driver may be writing the rest"
        made.append(RECORDS[kept])
        assert made.read() == RECORDS[: kept + 1]
        assert whole.startswith(made.path.read_bytes())


OLD = b"""\
{"configuration":"a","event":"ask"}
{"decision":"stop","epoch":1,"event":"epoch","trial":"t","values":[[61.5,null]]}
{"decision":null,"epoch":null,"event":"leave","trial":"t","values":null}
{"event":"end","objectives":null,"reason":"by asha","status":"stopped","trial":"t"}
{"event":"retry","trial":"t"}
{"event":"extend","settings":{"seeds":[0]}}
"""


def test_a_journal_of_an_older_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_bytes(OLD)
    assert Journal(tmp_path / "journal.jsonl").read() == [
        Asked("a"),
        Reported("t", 1, ((61.5, None),), Decision.STOP),
        Left("t"),
        Ended("t", TrialStatus.STOPPED, "by asha", None),
        Retried("t"),
        Extended({"seeds": [0]}),
    ]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"{not json", "Expecting property name"),
        (b"5", "event None: must be one of ask, epoch"),
        (b"[" * 100_000, "recursion"),
        (b"\xff", "codec can't decode"),
        (b'{"event":["end"]}', "must be one of ask, epoch"),
        (b'{"event":"end","trial":"t"}', "end.status: Field required"),
        (b'{"event":"end","objectives":null,"reason":"","status":"lost","trial":"t"}', "end.status: Input should be"),
        (b'{"event":"epoch","trial":"t","epoch":"1","values":[],"decision":"stop"}', "epoch.epoch: Input should be"),
        (b'{"event":"epoch","trial":"t","epoch":1,"values":[[1]],"decision":"stop"}', "epoch.values.0"),
        (b'{"event":"extend","settings":[]}', "extend.settings: Input should be"),
    ],
)
def test_a_damaged_line_is_named_with_the_remedy(tmp_path: Path, line: bytes, what: str) -> None:
    made = journal(tmp_path)
    made.path.write_bytes(made.path.read_bytes() + line + b"\n")
    damaged = rf"journal\.jsonl, line {len(RECORDS) + 1}: damaged, .*{re.escape(what)}.*choose another --name"
    with pytest.raises(UserError, match=damaged):
        made.read()
