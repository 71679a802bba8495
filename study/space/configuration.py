"""One configuration of a space."""

from collections.abc import Mapping
from dataclasses import dataclass

from kdq.distill.methods import COMMON, identifying, options
from kdq.store.stage import canonical
from study.space.declaration import Widths, measured


@dataclass(frozen=True, slots=True)
class Configuration:
    """A distillation method with its complete parameters, and the widths at which its student is quantized.

    axis: widths are searched, so a unique name must include them.
    """

    method: str
    parameters: Mapping[str, float]
    bits: Widths
    axis: bool = False

    @property
    def name(self) -> str:
        """A readable name, `dkd alpha=1 beta=8 temperature=4`: common parameters unless 0, options unless default."""
        common = {key: value for key, value in self.parameters.items() if key in COMMON and value}
        shown = common | options(self.method, self.parameters)
        bits = [f"bits={','.join(map(str, self.bits))}"] if self.axis else []
        return " ".join([self.method, *(f"{key}={value:g}" for key, value in shown.items()), *bits])

    @property
    def student(self) -> str:
        """The identity of the student, the same for configurations that differ only in bits."""
        return canonical({"method": self.method, "parameters": identifying(self.method, self.parameters)})

    @property
    def identity(self) -> str:
        return canonical([self.student, measured(self.bits)])
