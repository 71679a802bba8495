"""docs/spaces.md says the truth: every example loads with as many configurations as it says, every message is ours."""

import re
from math import inf
from pathlib import Path

import pytest
import yaml

from kdq.distill.methods import METHODS
from kdq.errors import UserError
from study.results.objective import OBJECTIVES
from study.schedulers.registry import SCHEDULERS
from study.space.declaration import KINDS, LISTS
from study.space.load import read_space
from study.space.searchers import SEARCHERS

GUIDE = (Path(__file__).parents[3] / "docs" / "spaces.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```\n(?:\n```text\n(.*?)```)?", GUIDE, re.DOTALL)


def test_the_guide_has_every_kind() -> None:
    sound = "".join(text for text, message in EXAMPLES if not message)
    missing = [kind for kind in KINDS if f"{{{kind}: " not in sound and f"{{{kind}: " not in GUIDE]
    assert missing == []
    assert all(f"`{name}`" in GUIDE for name in (*SEARCHERS, *SCHEDULERS, *LISTS, *OBJECTIVES))


def test_the_table_of_methods_has_every_method_with_its_parameters() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .*? \| ([^|]*) \| [^|]* \|$", GUIDE.partition("\n## Methods")[2], re.MULTILINE)
    table = {name: set(re.findall(r"`(\w+)`", params)) for name, params in rows}
    expected = {name: set(method.params) - {"mixup_alpha"} for name, method in METHODS.items()}
    assert {name: table.get(name) for name in expected} == expected


@pytest.mark.parametrize(("text", "message"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example(text: str, message: str) -> None:
    document = yaml.safe_load(text)
    if message:
        with pytest.raises(UserError) as error:
            read_space(document, "my.yaml")
        assert f"{error.value}\n" == message
    else:
        count = re.search(r"# (\d+|no end of) configurations\n", text)
        assert count, "an example says how many configurations it has"
        assert read_space(document, "my.yaml").size == (inf if count[1] == "no end of" else int(count[1]))
