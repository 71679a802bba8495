from pathlib import Path

import pytest

from kdq.errors import UserError
from study.control.journal import Journal

RECORDS = [{"event": "ask", "configuration": "a"}, {"event": "end", "trial": "t", "objectives": [81.5, 1024.0]}]


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
        assert made.read() == RECORDS[:1]
        assert made.path.read_bytes() == whole[:first]
        made.append(RECORDS[1])
        assert made.read() == RECORDS


def test_a_damaged_journal_is_said_with_the_remedy(tmp_path: Path) -> None:
    made = journal(tmp_path)
    content = made.path.read_bytes()
    for line in (b"{not json\n", b"5\n", b"[" * 100_000 + b"\n"):
        made.path.write_bytes(line + content)
        with pytest.raises(UserError, match=r"journal\.jsonl: damaged .*choose another --name"):
            made.read()
