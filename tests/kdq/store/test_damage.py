from pathlib import Path

import pytest

from kdq.errors import UserError
from kdq.store.damage import read_json


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b"1" * 5000])
def test_a_file_that_is_no_json_names_the_folder_to_remove(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"^{tmp_path}: damaged stage \(a\.json: .*\); remove this folder") as raised:
        read_json(tmp_path / "a.json")
    assert "\n" not in str(raised.value)


def test_json_is_read_and_a_missing_file_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1, "é"]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"a": [1, "é"]}
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json")
