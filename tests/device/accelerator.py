"""A stand-in for an accelerator: tensors that report another device, and compute on the CPU.

PyTorch's device type for third parties is registered as `accel`, and a tensor there wraps one on the CPU. So all that
PyTorch decides by a tensor's device (where new tensors are made, which kernels and which variant of an optimizer are
taken, on which thread the backward pass runs) is decided as for a GPU, and what a GPU refuses is refused:

- an operation on tensors of both devices (a single number on the CPU may enter an elementwise operation);
- a NumPy array of a tensor on the device.

Within `no_synchronization`, as a training step must be, three more are refused, each of which makes a GPU wait or work
behind the program's back: reading a value, copying between the devices, making a tensor of numbers on the CPU.

A process can register the device only before its first backward pass, and once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.optim import optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

from kdq.models import prepare

NAME = "accel"
DEVICE = "accel:0"
aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)
READS = {
    aten._local_scalar_dense,  # item(), float(), bool(), tolist() of a number
    aten.equal,
    aten.is_nonzero,
    aten.masked_select,
    aten.nonzero,
    aten._unique2,
    aten.unique_dim,
    aten.unique_consecutive,
    aten.bincount,
}
"""Operations whose result the program needs before it goes on, if only its shape."""


class WrongDeviceError(RuntimeError):
    """What a GPU would refuse."""


class SynchronizedError(RuntimeError):
    """What would make the program wait for a GPU."""


class _Module(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


class OnDevice(Tensor):
    """A tensor on the device; `inner` is the tensor on the CPU that it wraps."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "OnDevice":
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        made: OnDevice = Tensor._make_wrapper_subclass(cls, inner.size(), **layout, device=DEVICE)  # type: ignore[attr-defined]
        made.inner = inner
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        if func is Tensor.numpy:
            raise TypeError(f"can't convert {DEVICE} device type tensor to numpy")
        if func is Tensor.tolist:
            return args[0].cpu().tolist()
        if func in (Tensor.untyped_storage, Tensor.data_ptr):  # an address, by which tensors are told apart
            return func(args[0].inner)
        with torch._C.DisableTorchFunctionSubclass():
            if func == Tensor.data.__set__:  # type: ignore[attr-defined]
                return _set_data(func, *args)
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.detach().cpu().__reduce_ex__(protocol)  # files hold tensors on the CPU: see _load

    def __repr__(self, **options: Any) -> str:
        return f"{NAME}({self.inner!r})"


def _set_data(setter: Any, tensor: OnDevice, value: OnDevice) -> None:
    """Set tensor.data = value. In inference mode PyTorch refuses that to wrappers, though not to ordinary tensors."""
    if (tensor.shape, tensor.stride(), tensor.dtype) != (value.shape, value.stride(), value.dtype):
        setter(tensor, value)
    tensor.inner = value.inner


class _Mode(TorchDispatchMode):
    """Sends what has no tensor on the device among its arguments, such as torch.zeros(2, device=…), the same way."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Step:
    is_running = False  # for all threads: the backward pass runs on one of its own


def _run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Check an operation, run it on the CPU, and wrap what belongs on the device."""
    if func is aten._has_compatible_shallow_copy_type.default:  # asked by Module.to
        return False
    leaves = tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    on = _is_on_device(func, tensors, kwargs.get("device"))
    if func in COPIES:
        _check_copy(func, tensors, on)
    else:
        _check_devices(func, tensors)
    if on and any(isinstance(leaf, torch.Generator) for leaf in leaves):
        raise WrongDeviceError(f"{func}: a generator on the CPU for numbers on the device")
    found = func(*tree_map(_unwrap, args), **tree_map(_unwrap, kwargs))
    if _Step.is_running:
        _check_step(func, args, tensors, found, on)
    known = {id(tensor.inner): tensor for tensor in tensors if isinstance(tensor, OnDevice)}
    # A view of an ordinary tensor is an ordinary one, even if it is made in inference mode.
    is_view = bool(tensors) and any(result.alias_info is not None for result in func._schema.returns)
    is_inference = tensors[0].is_inference() if is_view else torch.is_inference_mode_enabled()
    with torch.inference_mode(is_inference):
        return tree_map(lambda value: _wrap(value, known), found) if on else found


def _is_on_device(func: Any, tensors: Sequence[Tensor], wanted: torch.device | None) -> bool:
    if wanted is not None:
        return torch.device(wanted).type == NAME
    if func in COPIES:
        return isinstance(tensors[0], OnDevice)
    return any(isinstance(tensor, OnDevice) for tensor in tensors)


def _unwrap(value: Any) -> Any:
    if isinstance(value, OnDevice):
        return value.inner
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == NAME else value


def _wrap(value: Any, known: Mapping[int, OnDevice]) -> Any:
    if not isinstance(value, Tensor):
        return value
    return known[id(value)] if id(value) in known else OnDevice(value)


def _check_devices(func: Any, tensors: Sequence[Tensor]) -> None:
    strangers = [tensor for tensor in tensors if not isinstance(tensor, OnDevice)]
    if not strangers or len(strangers) == len(tensors):
        return
    is_elementwise = torch.Tag.pointwise in func.tags and all(tensor.dim() == 0 for tensor in strangers)
    if not is_elementwise or (func._schema.is_mutable and tensors[0] is strangers[0]):
        shapes = [f"{tensor.device.type} {list(tensor.shape)}" for tensor in tensors]
        raise WrongDeviceError(f"{func}: expected all tensors to be on the same device, found {', '.join(shapes)}")


def _check_copy(func: Any, tensors: Sequence[Tensor], on: bool) -> None:
    if _Step.is_running and isinstance(tensors[-1], OnDevice) != on:
        raise SynchronizedError(f"{func}: copies {list(tensors[-1].shape)} between the devices")


def _check_step(func: Any, args: Sequence[Any], tensors: Sequence[Tensor], found: Any, on: bool) -> None:
    is_mask = func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default) and any(
        isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1]
    )
    if on and (is_mask or func.overloadpacket in READS):
        raise SynchronizedError(f"{func}: the program waits for its result")
    is_made = not tensors or func is aten.lift_fresh.default
    if is_made and not on and isinstance(found, Tensor) and found.dim() > 0:
        raise WrongDeviceError(f"{func}: makes {list(found.shape)} on the CPU")


def _autocast(operation: Any) -> Callable[..., Tensor]:
    """Return the operation as it runs under autocast: a GPU has lists of such operations, these two matter here."""

    def run(images: Tensor, weight: Tensor, bias: Tensor | None = None, *options: Any) -> Tensor:
        dtype = torch.get_autocast_dtype(NAME)
        with torch.autocast(NAME, enabled=False):
            lower = (images.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
            result: Tensor = operation(*lower, *options)
            return result

    return run


_load = torch.load


def _load_to(file: Any, map_location: Any, **options: Any) -> Any:
    """torch.load, whose files hold tensors on the CPU here: move all to `map_location`, as on a GPU."""
    loaded = _load(file, map_location="cpu", **options)
    return tree_map(lambda value: value.to(map_location) if isinstance(value, Tensor) else value, loaded)


def register() -> None:
    """Make the device known to PyTorch."""
    _setup_privateuseone_for_python_backend(NAME, _Module())
    key = "AutocastPrivateUse1"
    operations, others = torch.library.Library("aten", "IMPL", key), torch.library.Library("_", "IMPL", key)
    for name in ("conv2d", "linear"):
        operations.impl(name, _autocast(getattr(aten, name).default))
    others.fallback(torch.library.fallthrough_kernel)
    LIBRARIES.extend((operations, others))


LIBRARIES: list[torch.library.Library] = []  # what they register lasts as long as they do


@contextmanager
def accelerator() -> Iterator[torch.device]:
    """Tensors can be on the device within this context."""
    plain = patch.object(prepare, "PLAIN", {*prepare.PLAIN, OnDevice})
    # A GPU's optimizers update all tensors together.
    together = patch.object(optimizer, "_foreach_supported_types", [Tensor, nn.Parameter, OnDevice])
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor makes its tensor on the CPU, then copies it
    try:
        with _Mode(), patch.object(torch, "load", _load_to), plain, together:
            yield torch.device(DEVICE)
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


@contextmanager
def no_synchronization() -> Iterator[None]:
    """Within this context nothing may wait for the device, nor be made on the CPU."""
    _Step.is_running = True
    try:
        yield
    finally:
        _Step.is_running = False
