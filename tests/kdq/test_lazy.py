"""The public face: names of a package that import what is behind them only when they are used."""

import subprocess
import sys

import pytest

from tests.patience import patient

FACES = {
    "kdq.quantize": ("QuantizeConfig", "quantize", "quantize_many"),
    "kdq.pack": ("load", "pack"),
    "kdq.export": ("Exported", "export"),
    "kdq.predict": ("predict", "predict_files"),
}


@pytest.mark.parametrize("package", FACES)
def test_importing_a_package_does_not_import_torch(package: str) -> None:
    code = f"import sys, {package}; assert 'torch' not in sys.modules, 'torch'; {package}.{FACES[package][0]}; "
    code += "assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=patient(20))


def test_the_command_line_is_parsed_without_torch() -> None:
    code = "import sys\nfrom kdq.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules), sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=patient(20))


def test_the_names_are_those_of_the_modules() -> None:
    from kdq.pack import load, pack
    from kdq.pack.file import load as defined_load
    from kdq.pack.file import pack as defined_pack
    from kdq.quantize import QuantizeConfig, quantize, quantize_many
    from kdq.quantize.config import QuantizeConfig as Config
    from kdq.quantize.model import quantize as one
    from kdq.quantize.model import quantize_many as many

    assert (load, pack) == (defined_load, defined_pack)
    assert (QuantizeConfig, quantize, quantize_many) == (Config, one, many)


def test_a_function_is_not_the_module_that_defines_it() -> None:
    """Importing a module sets its name in its package, where it would hide a public name that is the same."""
    from kdq.export import export
    from kdq.export.model import export as defined_export
    from kdq.predict import predict
    from kdq.predict.classify import predict as defined_predict

    assert (export, predict) == (defined_export, defined_predict)


@pytest.mark.parametrize("package", FACES)
def test_names_are_listed_and_others_are_unknown(package: str) -> None:
    module = __import__(package, fromlist=["x"])
    assert set(FACES[package]) <= set(dir(module))
    assert set(module.__all__) == set(FACES[package])
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        _ = module.nothing
