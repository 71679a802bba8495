"""A space says what is searched: values and grids for a method's parameters, and the bit widths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Discriminator, PlainValidator, Tag

from kdq.errors import UserError, unknown
from kdq.methods import COMMON, METHODS, PARAMETERS, MethodConfig, options
from kdq.points import BIT_WIDTHS
from kdq.stages import canonical
from study.documents import locate, read, validate

FOLDER = Path(__file__).parents[1] / "search_spaces"
DEFAULT_BITS = (2, 3, 4, 5, 6, 8)

TEACHER = "teacher"
"""The method of a trial that distills nothing: the teacher itself is quantized."""


def _scalar(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError("must be a name, a number or a grid such as {grid: [1, 2]}")
    return value


Scalar = Annotated[str | float, PlainValidator(_scalar)]


@dataclass(frozen=True, slots=True)
class Grid:
    """Each of these values."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    grid: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        if not self.grid:
            raise UserError("the grid is empty: must have at least one value")


Parameter = Annotated[
    Annotated[Scalar, Tag("Fixed")] | Annotated[Grid, Tag("Grid")],
    Discriminator(lambda value: "Grid" if isinstance(value, dict) else "Fixed"),
]
"""One value, or a grid of them."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """A distillation method with its complete parameters."""

    method: str
    parameters: Mapping[str, float]

    @property
    def name(self) -> str:
        """For people: `dkd alpha=1 beta=8 temperature=4`; other parameters where they are not at their defaults."""
        common = {key: value for key, value in self.parameters.items() if key in COMMON and value}
        shown = common | options(self.method, self.parameters)
        return " ".join([self.method, *(f"{key}={value:g}" for key, value in shown.items())])

    @property
    def identity(self) -> str:
        return canonical({"method": self.method, "parameters": dict(self.parameters)})


@dataclass(frozen=True, slots=True)
class Space:
    """What a YAML file under search_spaces/ says. bits: the widths at which every student is quantized."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    description: str
    params: dict[str, Parameter]
    bits: tuple[int, ...] = DEFAULT_BITS

    def __post_init__(self) -> None:
        known = ["method", *PARAMETERS]
        problems = [f"params.{key}: {unknown('parameter', key, known)}" for key in self.params if key not in known]
        problems += ["params.method: is required, and is missing"] if "method" not in self.params else []
        problems += [f"bits = {b}: must be 1 to 8, or 32 for float" for b in self.bits if b not in BIT_WIDTHS]
        problems += ["bits: at least one width is needed, such as [2, 4, 8]"] if not self.bits else []
        if not problems:
            problems = [*dict.fromkeys(self._method_problems())]
        if problems:
            raise UserError("; ".join(problems))

    def _method_problems(self) -> list[str]:
        """What the methods say of their values: every configuration is tried."""
        problems = []
        for values in self._combinations():
            try:
                _configuration(values)
            except UserError as error:
                problems.append(f"params.{error}")
        return problems

    def _combinations(self) -> list[dict[str, Any]]:
        """One value for each parameter, in the order of the file, the last parameter changing fastest."""
        choices: list[Sequence[Scalar]] = [
            value.grid if isinstance(value, Grid) else (value,) for value in self.params.values()
        ]
        return [dict(zip(self.params, values, strict=True)) for values in product(*choices)]

    def configurations(self) -> list[Configuration]:
        """Every configuration once: two that differ in inactive parameters only are the same."""
        found = [_configuration(values) for values in self._combinations()]
        return list({configuration.identity: configuration for configuration in found}.values())


def _configuration(values: Mapping[str, Any]) -> Configuration:
    if values["method"] == TEACHER:
        return Configuration(TEACHER, {})
    if values["method"] not in METHODS:
        raise UserError(f"method: {unknown('method', str(values['method']), [*METHODS, TEACHER])}")
    config = MethodConfig.parse(values)
    return Configuration(config.name, config.params)


def load_space(name: str, overrides: Mapping[str, Any]) -> Space:
    """A shipped space by name or a user's own by path; overrides: `bits`, or a parameter by its name.

    Raises UserError with every error of the document.
    """
    path = locate("space", name, FOLDER)
    document = read(path)
    for key, value in overrides.items():
        if key != "bits" and not isinstance(document.get("params"), dict):
            raise UserError(f"{path}: params: must be a mapping of parameters to values")
        (document if key == "bits" else document["params"])[key] = value
    return validate(document, Space, f"{path}{' with the options given' if overrides else ''}")
