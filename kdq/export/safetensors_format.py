"""Real weights in float32 as safetensors, under their names in the network; the description is the entry `config`.

Batch norms are folded into the layers before them, each of which has a bias.
"""

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from kdq.models.prepare import PREFIX
from kdq.pack.file import Packed

CONFIG = "config"


def write(packed: Packed, description: Mapping[str, Any], size: tuple[int, int]) -> bytes:
    """Return the weights as a safetensors file."""
    state = {key.removeprefix(PREFIX): value.contiguous() for key, value in packed.model.state_dict().items()}
    return save(state, metadata={CONFIG: json.dumps(description)})  # one entry: several would be in random order


def run(content: bytes, packed: Packed) -> Callable[[Tensor], Tensor]:
    """Return a function of float32 images in [0, 1] that computes the logits of our network with these weights."""
    model = copy.deepcopy(packed.model)
    model.net.load_state_dict(load(content))
    return model
