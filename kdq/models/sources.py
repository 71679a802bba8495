"""Architectures by one string: our own by name, those of libraries and of files as SOURCE:NAME[?OPTION=VALUE&…].

    resnet20
    torchvision:mobilenet_v3_small?stem=small
    timm:mobilevit_xxs?img_size=64
    transformers:vit?hidden_size=192&num_attention_heads=3&image_size=32&patch_size=4
    python:nets.py:small_vit?depth=6
    torchvision:resnet18?weights=resnet18.safetensors
    transformers:google/vit-base-patch16-224?weights=pretrained

`stem=small` adapts the stem of a convolutional network to small images (see `stems`); `weights` names a file of
weights, which a teacher has, and from which a student starts; every other option is a keyword argument of the function
that builds the network. A Python file is run only because its user named it; `pinned` adds the SHA-256 of its content,
so that what a study began with is what all of it uses.
"""

import re
from dataclasses import replace
from pathlib import Path

from torch import nn
from torch.nn.parameter import is_lazy

from kdq.errors import USER_CODE, UserError, first_line, quoted, unknown
from kdq.models import transformers_nets, user_code
from kdq.models.architecture import WEIGHTS, Architecture, check_options, literal
from kdq.models.checkpoint_file import read
from kdq.models.libraries import SOURCES, is_published, published
from kdq.models.modules import load_values
from kdq.models.resnets import ARCHITECTURES
from kdq.models.stems import STEMS
from kdq.models.weights import Network, find_weights
from kdq.store.stage import Json, digest

SHOWN = 8  # digits of a SHA-256
PIN = re.compile(r"(.*)#([0-9a-f]{64})", re.DOTALL)


def parse_architecture(text: str) -> Architecture:
    """Return the architecture that a string names. Raises UserError, with the closest known name, for no such string.

    Checks names and that files exist; imports the library that the name belongs to, and runs no file.
    """
    found = _split(text)
    if found.stem not in STEMS:
        raise unknown(f"stem of {text!r}", found.stem, STEMS)
    if found.source:
        SOURCES[found.source].check(found)
        check_options(found)
    if found.weights is not None and not is_published(found):
        user_code.hash_of(weights_file(found.weights)[0], text)
    return found


def is_sourced(text: str) -> bool:
    """Return whether a string has the form of an architecture of a library or a file."""
    return text.partition(":")[0] in SOURCES


def build_network(text: str, classes: int, channels: int) -> nn.Module:
    """Build the network of an architecture, newly initialised, for so many classes and channels of its images.

    With the option `weights`, it has these, but for its first convolution and the layers that return logits where the
    file's have another shape, as those of ImageNet's 1,000 classes have. Raises UserError for an unknown architecture,
    for options that it does not take, for a user's code that fails, and for weights that are damaged or do not fit
    otherwise.
    """
    found = parse_architecture(text)
    net = _new(found, text, classes, channels)
    if found.weights is not None:
        file = (published(found), None) if is_published(found) else weights_file(found.weights)
        if isinstance(net, transformers_nets.Logits):
            transformers_nets.start_from(net, *file)
        else:
            _load_fitting(net, text, classes, *file)
    return net


def _new(found: Architecture, text: str, classes: int, channels: int) -> nn.Module:
    try:
        if found.source:
            net = SOURCES[found.source].build(found, classes, channels)
        else:
            net = ARCHITECTURES[found.name](classes, channels)
    except UserError:
        raise
    except USER_CODE as error:  # a wrong option of a library's function, or a mistake in a user's or a plugin's
        raise UserError(
            f"architecture {text!r} cannot be built ({type(error).__name__}: {first_line(error)}); correct its options "
            "or its code"
        ) from error
    if not isinstance(net, nn.Module):
        raise UserError(f"architecture {text!r}: its function returns a {type(net).__name__}; must return an nn.Module")
    if lazy := [name for name, parameter in net.named_parameters() if is_lazy(parameter)]:
        raise UserError(
            f"architecture {text!r}: {lazy[0]} has no shape before a first run (a lazy module); give its layer a size"
        )
    return net


def _load_fitting(net: nn.Module, arch: str, classes: int, path: Path, key: str | None) -> None:
    """Give a network the weights of a file, except where shapes differ because channels or classes do."""
    own, names = net.state_dict(), [name for name, _ in net.named_parameters()]
    needed = Network(arch, own, classes=classes)
    first, last = (name.rpartition(".")[0] for name in (names[0], [*names, *needed.heads][-1]))
    first = next((name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)), first)
    needed = replace(needed, free=(f"{first}.", f"{last}."))
    weights = find_weights(read(path), needed, path, key)
    load_values(net, {name: value for name, value in weights.items() if value.shape == own[name].shape})


def split_weights(text: str) -> tuple[str, str | None]:
    """Return an architecture without its option `weights`, and that option's value; None without."""
    found = _split(text)
    return str(replace(found, weights=None)), found.weights


def weights_file(text: str) -> tuple[Path, str | None]:
    """Return the absolute path and the key of `PATH` or `PATH#KEY`, the latter naming one of several weights in it."""
    whole = Path(text).expanduser().absolute()
    name, mark, key = text.rpartition("#")
    if not (mark and name) or whole.is_file():  # a # in the name of the file itself
        return whole, None
    return Path(name).expanduser().absolute(), key or None


def pinned(text: str) -> str:
    """Return the architecture so that it means the same wherever and whenever it is built.

    Paths are absolute, a Python file has the SHA-256 of its content, and a model of transformers the settings of its
    configuration as options of its type.
    """
    if not is_sourced(text):
        return text
    found = parse_architecture(text)
    if is_published(found):
        found = replace(found, weights=str(published(found)))
    if found.weights is not None:
        path, key = weights_file(found.weights)
        found = replace(found, weights=f"{path}#{key}" if key else str(path))
    if found.source == "transformers":
        kind, settings = transformers_nets.resolve(found.name)
        own = {**{key: literal(value) for key, value in settings.items()}, **dict(found.options)}
        found = replace(found, name=kind, options=tuple(own.items()))
    if found.source == "python" and found.sha256 is None:
        file = found.file.expanduser().absolute()
        found = replace(found.of_file(file), sha256=user_code.hash_of(file, text))
    return str(found)


def identity(text: str) -> Json:
    """Return what an architecture contributes to the identity of a stage: the string, or its files' contents."""
    if not is_sourced(text):
        return text
    found = _split(text)
    if is_published(found):
        return identity(pinned(text))
    if found.weights is not None:
        path, key = weights_file(found.weights)
        return {"arch": identity(split_weights(text)[0]), WEIGHTS: user_code.hash_of(path, text), "key": key}
    if found.source != "python":
        return pinned(text)
    sha256 = found.sha256 or user_code.hash_of(found.file, text)
    return {"function": found.function, "options": dict(found.options), "sha256": sha256}


def without_path(text: str) -> str:
    """Return the architecture with the name of its Python file alone and without weights."""
    if not is_sourced(text):
        return text
    found = replace(_split(text), weights=None)
    return str(found.of_file(Path(found.file.name)) if found.source == "python" else found)


def packed(text: str) -> str:
    """Return the architecture as a packed file has it: pinned, but without folders and weights."""
    return without_path(pinned(split_weights(text)[0])) if is_sourced(text) else text


def code_of(text: str) -> Path | None:
    """Return the user's file that an architecture is built by, None if it needs none."""
    found = _split(text)
    return found.file if found.source == "python" else None


def is_self_contained(text: str) -> bool:
    """Return whether an architecture names no weights, and no folder or repository, as `packed` makes it."""
    if not is_sourced(text):
        return True
    found = _split(text)
    return found.weights is None and (found.source != "transformers" or transformers_nets.is_type(found.name))


def short_name(text: str) -> str:
    """Return the architecture as tables show it: without folders, and with the first digits of a file's SHA-256."""
    if not is_sourced(text):
        return text
    found = _split(text)
    if found.weights is not None:
        found = replace(found, weights=Path(found.weights).name)
    if found.source == "transformers" and found.options:
        return f"{found.source}:{found.name}#{digest(dict(found.options))[:SHOWN]}"
    if found.source == "python":
        found = replace(found.of_file(Path(found.file.name)), sha256=(found.sha256 or "")[:SHOWN])
    return str(found)


def with_code(text: str, code: Path | str | None) -> str:
    """Return the architecture of a packed file with the user's file `code` in place of its own.

    Raises UserError if it needs one and none is named, or needs none.
    """
    found = _split(text)
    if found.source != "python":
        if code is not None:
            raise UserError(f"code {str(code)!r}: the model is {text!r}, which needs no file; leave it out")
        return text
    if code is None:
        raise UserError(
            f"the model is built by {found.function}() of a user's file, {quoted(found.file.name)}, which is run only "
            "if you name it: load(path, code=FILE), or --code FILE"
        )
    return str(found.of_file(Path(code).expanduser().absolute()))


def _split(text: str) -> Architecture:
    """Return the parts of a string. Raises UserError if it has no known form."""
    source, _, rest = text.partition(":")
    if text in ARCHITECTURES:
        return Architecture("", text)
    if source not in SOURCES or not rest:
        raise unknown("architecture", text, [*ARCHITECTURES, *(f"{source}:NAME" for source in SOURCES)])
    match = PIN.fullmatch(rest) if source == "python" else None
    rest, sha256 = match.groups() if match else (rest, None)
    name, _, query = rest.partition("?")
    options: dict[str, str] = {}
    for part in query.split("&") if query else ():
        key, equals, value = part.partition("=")
        if not (key and equals and value) or key in options:
            raise UserError(f"architecture {text!r}: option {part!r}; write each once, as NAME?key=value&key=value")
        options[key] = value
    weights = options.pop(WEIGHTS, None)
    return Architecture(source, name, tuple(options.items()), weights, sha256)
