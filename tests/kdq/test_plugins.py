"""Plugins: what is registered and removed, what is refused, and what becomes part of identities."""

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from kdq import plugins
from kdq.bits import Allocation
from kdq.distill.methods import METHODS, Method, MethodConfig, parameters, register_method
from kdq.distill.recipe import TrainConfig
from kdq.errors import UserError
from kdq.pipeline.point import PointSpec
from kdq.pipeline.student import StudentSpec
from kdq.quantize.algorithms import QUANTIZERS
from kdq.quantize.config import QuantizerSpec

METHOD = """
from kdq.distill.methods import METHODS, register_method
from dataclasses import replace
vkd = METHODS["vkd"]
register_method("{name}", replace(vkd, params=vkd.params | {{"zeal": vkd.params["alpha"]}}))
"""
QUANTIZER = """
from kdq.quantize.algorithms import QUANTIZERS, register_quantizer
register_quantizer("nearest", QUANTIZERS["rtn"])
"""


@pytest.fixture(autouse=True)
def _unchanged() -> Iterator[None]:
    """No test leaves a plugin behind."""
    yield
    for plugin in plugins.loaded():
        plugins.unload(plugin.name)
    assert "mine" not in METHODS
    assert "nearest" not in QUANTIZERS


def write(folder: Path, text: str, name: str = "mine.py") -> Path:
    (folder / name).write_text(text)
    return folder / name


def student(method: str, arch: str = "resnet8") -> StudentSpec:
    train = TrainConfig(epochs=2, batch_size=4, lr=0.1)
    return StudentSpec("0" * 64, "t", arch, MethodConfig.parse({"method": method}), train, 0)


def test_a_method_is_added_with_its_parameters_and_its_content_identifies_its_students(tmp_path: Path) -> None:
    before = student("vkd").stage().id
    plugin = plugins.load(write(tmp_path, METHOD.format(name="mine")))
    assert "zeal" in parameters()
    assert [(member.kind, member.name) for member in plugins.members(plugin)] == [("method", "mine")]
    assert student("mine").stage().inputs["plugins"] == {"method mine": plugin.sha256}
    first = student("mine").stage().id
    plugins.load(write(tmp_path, METHOD.format(name="mine") + "# edited"))
    assert student("mine").stage().id != first
    assert student("vkd").stage().id == before
    assert "plugins" not in student("vkd").stage().inputs


def test_the_same_content_is_run_once(tmp_path: Path) -> None:
    count = "\nwith open(__file__ + '.runs', 'a') as runs:\n    runs.write('x')\n"
    path = write(tmp_path, METHOD.format(name="mine") + count)
    plugins.load(path)
    method = METHODS["mine"]
    plugins.load_all([path])
    plugins.ensure(plugins.loaded())
    assert METHODS["mine"] is method
    assert Path(f"{path}.runs").read_text() == "x"


def test_a_quantizer_identifies_points(tmp_path: Path) -> None:
    def point(method: str) -> PointSpec:
        return PointSpec("m", "d", Allocation.uniform(4), QuantizerSpec(method), 8, 0)

    plugin = plugins.load(write(tmp_path, QUANTIZER))
    assert point("nearest").stage().inputs["plugins"] == {"quantizer nearest": plugin.sha256}
    assert "plugins" not in point("rtn").stage().inputs


def test_a_worker_gets_the_content(tmp_path: Path) -> None:
    plugin = plugins.load(write(tmp_path, METHOD.format(name="mine")))
    (tmp_path / "mine.py").unlink()
    plugins.unload(plugin.name)
    plugins.ensure([plugin])
    assert "mine" in METHODS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (METHOD.format(name="dkd"), "plugin mine.py: method 'dkd': kdq has one of this name; choose another"),
        (METHOD.format(name="My loss"), "plugin mine.py: method 'My loss': a name must be lower-case letters"),
        ("x = 1", "plugin mine.py: registers nothing"),
        ("x = 1\ny = 1 / 0", r"plugin mine.py: ZeroDivisionError: division by zero \(line 2\)"),
        ("import sys\nsys.exit('no')", r"plugin mine.py: SystemExit: no \(line 2\)"),
        ("x = 1\ndef f(:", r"plugin mine.py: SyntaxError: .* \(line 2\)"),
        ("import kdq_missing", "plugin mine.py: ModuleNotFoundError: No module named 'kdq_missing'"),
        (METHOD.format(name="mine") + "1 / 0", r"ZeroDivisionError: division by zero \(line 6\)"),
        (
            METHOD.format(name="mine").replace("params=vkd.params | ", "params="),
            "method 'mine': every method has the parameter mixup_alpha; add MIXING",
        ),
        (
            METHOD.format(name="mine").replace("params=", "feature_loss=lambda *_: {}, needs_teacher=False, params="),
            "a method with a feature_loss needs a teacher, and no peer",
        ),
    ],
)
def test_a_file_that_fails_is_one_line_and_leaves_nothing(text: str, message: str, tmp_path: Path) -> None:
    before = set(METHODS)
    with pytest.raises(UserError, match=message):
        plugins.load(write(tmp_path, text))
    assert set(METHODS) == before
    assert plugins.loaded() == ()


def test_a_missing_file_and_two_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"plugin .*none.py: No such file or directory; give the path of a Python file"):
        plugins.load(tmp_path / "none.py")
    with pytest.raises(UserError, match=r"plugin mine.py: is given twice"):
        plugins.load_all([tmp_path / "mine.py", tmp_path / "other" / "mine.py"])


def test_a_name_of_another_plugin_is_refused(tmp_path: Path) -> None:
    plugins.load(write(tmp_path, METHOD.format(name="mine")))
    with pytest.raises(UserError, match=r"plugin other.py: method 'mine': the plugin mine.py has one of this name"):
        plugins.load(write(tmp_path, METHOD.format(name="mine"), "other.py"))
    assert "mine" in METHODS


def test_nothing_is_registered_outside_of_a_plugin() -> None:
    with pytest.raises(UserError, match="can be registered by a plugin only, whose content identifies its results"):
        register_method("mine", Method("", METHODS["ce"].loss, METHODS["ce"].params))


def test_what_a_study_needs_is_named(tmp_path: Path) -> None:
    plugin = plugins.load(write(tmp_path, METHOD.format(name="mine")))
    assert plugins.used([("method", "mine"), ("method", "vkd")]) == {"mine.py": plugin.sha256}
    plugins.require({"mine.py": plugin.sha256}, "study 'a'")
    with pytest.raises(plugins.MissingPlugin, match=r"study 'a' uses another version of the plugin mine.py"):
        plugins.require({"mine.py": "0" * 64}, "study 'a'")
    with pytest.raises(plugins.MissingPlugin, match=r"study 'a' uses the plugin other.py: give it by --plugin FILE"):
        plugins.require({"other.py": "0" * 64}, "study 'a'")


def test_an_installed_package_is_run_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "kdq_test_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "losses.py").write_text(METHOD.format(name="mine"))
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = EntryPoint("losses", "kdq_test_package.losses", plugins.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [entry] if group == plugins.GROUP else [])
    plugins.load_installed()
    (plugin,) = plugins.loaded()
    assert (plugin.name, plugin.content) == ("kdq_test_package.losses:losses", None)
    assert student("mine").stage().inputs["plugins"] == {"method mine": plugin.sha256}
    plugins.ensure([plugin])
    with pytest.raises(UserError, match="has another content here than on the driver; install the same version"):
        plugins.ensure([plugins.Plugin(plugin.name, "0" * 64)])
    with pytest.raises(UserError, match=r"plugin other:x: is not installed here"):
        plugins.ensure([plugins.Plugin("other:x", "0" * 64)])


def test_plugins_are_loaded_without_torch() -> None:
    code = "import sys, kdq.plugins; kdq.plugins.load_installed(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
