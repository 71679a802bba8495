"""Real weights in float32 as safetensors, under their names in the network; the description is the entry `config`.

Batch norms are folded into the layers before them, each of which has a bias.
"""

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from kdq.models.modules import load_values
from kdq.models.prepare import PREFIX
from kdq.pack.file import Packed

CONFIG = "config"


def write(packed: Packed, description: Mapping[str, Any], size: tuple[int, int]) -> bytes:
    """Return the weights as a safetensors file."""
    named = (*packed.model.named_parameters(), *packed.model.named_buffers())  # each once, whatever its other names
    kept = packed.model.state_dict().keys() & {name for name, _ in named}
    state = {name.removeprefix(PREFIX): value.contiguous() for name, value in named if name in kept}
    return save(state, metadata={CONFIG: json.dumps(description)})  # one entry: several would be in random order


def run(content: bytes, packed: Packed) -> Callable[[Tensor], Tensor]:
    """Return a function of float32 images in [0, 1] that computes the logits of our network with these weights."""
    model = copy.deepcopy(packed.model)
    load_values(model.net, load(content))
    return model
