"""The model card: a Markdown page of what is known of an exported model."""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from jinja2 import Environment, StrictUndefined

from kdq.errors import printable
from kdq.models.sources import without_path
from kdq.pack.file import Packed
from kdq.pack.size import size_breakdown

if TYPE_CHECKING:
    from kdq.export.model import Exported

TEMPLATE = """\
# {{ arch | plain }}, {{ widths }}

| | |
| --- | --- |
{% for name, value in facts.items() -%}
| {{ name | plain }} | {{ value | plain }} |
{% endfor %}
{%- if top1 %}
## Accuracy

Top-1 {{ top1 }}
{% endif %}
## Check

The exported model was run in {{ check.runtime }} on {{ "{:,}".format(check.images) }} {{ images_name | plain }}: \
{{ "{:.2f}".format(100 * check.agreement) }} % of the predicted classes are those of the packed model, the logits \
differ by {{ "{:.1e}".format(check.error) }} of their size.
{% if command %}
## How it is made

```sh
{{ command }}
```
{% endif %}
## Size

Bytes of the packed file, layer by layer. "Bits" are those of a weight, as packed and as exported.

| layer | bits | exported bits | weights | scales and zero points | biases and float weights | total |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
{% for row in rows -%}
| {{ row.layer | plain }} | {{ row.bits }} | {{ exported_bits.get(row.layer, 32) }} | {{ row.codes | bytes }} \
| {{ (row.scales + row.zero_points) | bytes }} | {{ row.leftovers | bytes }} | {{ row.total | bytes }} |
{% endfor -%}
| **all** | | | {{ rows | sum("codes") | bytes }} \
| {{ (rows | sum("scales") + rows | sum("zero_points")) | bytes }} | {{ rows | sum("leftovers") | bytes }} \
| {{ rows | sum("total") | bytes }} |

## Classes

{% for name in names -%}
{{ loop.index0 }}. {{ name | plain }}
{% endfor -%}
"""

CONFIDENCE = 0.95


def model_card(
    packed: Packed,
    exported: "Exported",
    size: tuple[int, int],
    images_name: str,
    facts: Mapping[str, str],
    command: str | None,
) -> str:
    """Return the card of an exported model; see `export` for the last three."""
    rows = size_breakdown(packed)
    widths = Counter(layer.alphabet.bits for layer in packed.layers.values())
    return (
        _environment()
        .from_string(TEMPLATE)
        .render(
            model=packed.model,
            arch=without_path(packed.model.arch),
            widths=_widths(widths),
            facts={**_facts(packed, exported, size), **facts},
            top1=_accuracy(exported, images_name),
            check=exported.check,
            images_name=images_name,
            command=command,
            rows=rows,
            exported_bits={name: bits for name, (_, bits) in exported.widths.items()},
            names=packed.model.signature.class_names,
        )
    )


def _environment() -> Environment:
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters["plain"] = plain
    environment.filters["bytes"] = lambda bits: f"{bits // 8:,}"
    return environment


def plain(text: str) -> str:
    """Return text in which Markdown finds nothing to format, in one line."""
    return "".join(f"\\{letter}" if letter in r"\`*_[]<>|#" else letter for letter in printable(text))


def _widths(counts: Mapping[int, int]) -> str:
    """Return the widths of the quantized layers in words."""
    if not counts:
        return "float"
    if len(counts) == 1:
        [bits] = counts
        return f"{bits} {'bits' if bits > 1 else 'bit'}"
    return f"{min(counts)} to {max(counts)} bits"


def _facts(packed: Packed, exported: "Exported", size: tuple[int, int]) -> dict[str, str]:
    """Return what the packed file alone says."""
    model = packed.model
    channels = model.signature.channel_order or f"{len(model.normalization.mean)} channels"
    inputs = {layer.inputs.bits for layer in packed.layers.values() if layer.inputs}
    counts = Counter(layer.alphabet.bits for layer in packed.layers.values())
    layers = ", ".join(f"{count} layers at {bits} bits" for bits, count in sorted(counts.items()))
    return {
        "Architecture": without_path(model.arch),
        "Classes": f"{model.classes:,}",
        "Images": f"{size[0]}x{size[1]}, {channels}, float32 in [0, 1], normalised by the model",
        "Images of another size": model.signature.resize,
        "Weights": layers or "float32",
        "Activations": f"inputs of quantized layers at {max(inputs)} bits" if inputs else "float32",
        "Exported to": exported.to,
        "Packed file": f"{exported.packed_bytes:,} bytes",
        "Exported file": f"{exported.exported_bytes:,} bytes",
    }


def _accuracy(exported: "Exported", images_name: str) -> str | None:
    """Return the accuracies with the packed model's interval, None if they were not measured."""
    check = exported.check
    if check.packed_top1 is None or check.exported_top1 is None:
        return None
    low, high = wilson(round(check.packed_top1 * check.images / 100), check.images)
    return (
        f"{check.packed_top1:.2f} % of {check.images:,} {plain(images_name)} ({CONFIDENCE:.0%} interval {low:.2f} to "
        f"{high:.2f} %); exported, in {check.runtime}: {check.exported_top1:.2f} %."
    )


def wilson(correct: int, images: int) -> tuple[float, float]:
    """Return the ends, in percent, of the interval of an accuracy (Wilson 1927) at CONFIDENCE."""
    from scipy.stats import binomtest

    found = binomtest(correct, images).proportion_ci(CONFIDENCE, method="wilson")
    return 100 * float(found.low), 100 * float(found.high)
