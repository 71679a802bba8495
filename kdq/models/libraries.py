"""Where networks come from: torchvision, timm, transformers and files of users, in one table."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdq.errors import UserError, first_line, quoted, unknown
from kdq.models import transformers_nets, user_code
from kdq.models.architecture import STEM, WEIGHTS, Architecture
from kdq.models.stems import STEMS, adapt_stem

FILES = {"checkpoint_path", "cache_dir", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"}
"""Keyword arguments of timm.create_model by which it reads files; those of a packed file are not to be trusted."""

PUBLISHED = {"torchvision": "imagenet", "transformers": "pretrained"}
"""Source -> the value of `weights` that stands for those that a model comes with."""

NEAREST = 5


@dataclass(frozen=True, slots=True)
class Source:
    """Where networks come from. check: raises UserError for a name that it lacks; build: (architecture, classes,
    channels) -> the network, newly initialised."""

    check: Callable[[Architecture], None]
    build: Callable[[Architecture, int, int], nn.Module]


def _check_torchvision(found: Architecture) -> None:
    from torchvision import models

    known = models.list_models(module=models)
    if found.name not in known:
        raise unknown("model of torchvision", found.name, known)


def _build_torchvision(found: Architecture, classes: int, channels: int) -> nn.Module:
    from torchvision import models

    net: nn.Module = models.get_model(found.name, weights=None, num_classes=classes, **found.keywords)
    stem = found.stem
    if isinstance(net, models.VGG) and stem == "small":  # no stem that downsamples, but a classifier of 7x7 maps
        net.avgpool = nn.AdaptiveAvgPool2d(1)
        hidden = net.classifier[0]
        net.classifier[0] = nn.Linear(hidden.in_features // 49, hidden.out_features)
        stem = STEMS[0]
    adapt_stem(net, str(found), channels=channels, stem=stem)
    return net


def is_published(found: Architecture) -> bool:
    """Return whether the weights are those that the model comes with. Raises UserError for those of another source."""
    owners = [source for source, value in PUBLISHED.items() if value == found.weights]
    if owners and found.source not in owners:
        raise UserError(
            f"{found.source}:{found.name}: weights={found.weights} are those of {owners[0]}; give weights=FILE"
        )
    return bool(owners)


def published(found: Architecture) -> Path:
    """Return the file of the weights that a model comes with, downloaded if it is missing.

    torchvision's are ImageNet's, in torch's cache; those of transformers are in the model's folder, or in the Hub's
    cache. Raises UserError if they are unavailable, or if the model has none.
    """
    if found.source == "transformers":
        return transformers_nets.own_weights(found.name)
    return _torchvision_weights(found)


def _torchvision_weights(found: Architecture) -> Path:
    from torchvision import models

    url = str(models.get_model_weights(found.name).DEFAULT.url)
    try:
        torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:  # no network; a truncated file
        raise UserError(
            f"{found.source}:{found.name}: {url} is unavailable ({first_line(error)}); download it on another machine "
            "and use weights=FILE"
        ) from error
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise UserError(f"timm:NAME needs timm ({first_line(error)}); install with: pip install 'kdq[timm]'") from error
    return timm


def _check_timm(found: Architecture) -> None:
    timm = _timm()
    if files := FILES & dict(found.options).keys():
        raise UserError(f"architecture {str(found)!r}: {min(files)} is not allowed; use {WEIGHTS}=FILE")
    if not timm.is_model(found.name):  # of more than a thousand
        near = get_close_matches(found.name, timm.list_models(), n=NEAREST, cutoff=0.0)
        raise UserError(
            f"unknown model of timm {quoted(found.name)}: near are {', '.join(near)}; see timm.list_models()"
        )


def _build_timm(found: Architecture, classes: int, channels: int) -> nn.Module:
    options = {"num_classes": classes, "in_chans": channels, **found.keywords}
    net: nn.Module = _timm().create_model(found.name, pretrained=False, **options)
    adapt_stem(net, str(found), channels=channels, stem=found.stem)
    return net


def _check_python(found: Architecture) -> None:
    if not found.function.isidentifier() or found.file.suffix != ".py":
        raise UserError(f"architecture {str(found)!r}: must be python:FILE.py:FUNCTION")
    if STEM in dict(found.options):
        raise UserError(
            f"architecture {str(found)!r}: stem is for models of libraries; build the stem in {found.function}"
        )
    if not found.file.is_file():
        raise UserError(f"architecture {str(found)!r}: there is no file {found.file}; name one that exists")


def _build_python(found: Architecture, classes: int, channels: int) -> nn.Module:
    build = user_code.function_in(found.file, found.function, str(found), found.sha256)
    net: nn.Module = build(classes, channels, **found.keywords)
    return net


def _check_transformers(found: Architecture) -> None:
    if STEM in dict(found.options):
        raise UserError(f"architecture {str(found)!r}: has no stem to adapt; give image_size and patch_size")
    transformers_nets.check_name(found.name)


def _build_transformers(found: Architecture, classes: int, channels: int) -> nn.Module:
    kind, settings = transformers_nets.resolve(found.name)
    return transformers_nets.build(kind, {**settings, **found.keywords}, classes, channels)


SOURCES = {
    "torchvision": Source(_check_torchvision, _build_torchvision),
    "timm": Source(_check_timm, _build_timm),
    "transformers": Source(_check_transformers, _build_transformers),
    "python": Source(_check_python, _build_python),
}
"""Prefix of an architecture -> its source."""
