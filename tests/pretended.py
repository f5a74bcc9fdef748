"""A device that is not there: tensors that say they are on it, hold their numbers on the CPU, and refuse to be mixed.

A forgotten `device=` or a buffer left behind is an error on a GPU and none on a CPU. Within `PretendedDevice()` it is
one on a machine without a GPU too.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

# PyTorch's name for a device without numbers: known everywhere, so that autograd and optimizers take its tensors.
DEVICE = torch.device("meta")

# What may read one device and write the other.
COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class Elsewhere(torch.Tensor):
    """A tensor on DEVICE; its numbers are in `held`, on the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor):
        tensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=DEVICE)
        tensor.held = held
        return tensor

    # These two PyTorch does without an operation that could be caught.
    def tolist(self):
        return self.held.tolist()

    def new_tensor(self, data, dtype=None):
        return Elsewhere(self.held.new_tensor(data, dtype=dtype))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


class PretendedDevice(TorchDispatchMode):
    """Within it tensors can be made on DEVICE and moved there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


def compute(func, args, kwargs):
    """The result of an operation, on the device on which a GPU would leave it; an error where it would refuse."""
    operands = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
    there = [value for value in operands if isinstance(value, Elsewhere)]
    for value in operands:
        # A number in a tensor without dimensions goes along to the kernel, if this is an element-wise one.
        as_number = value.dim() == 0 and torch.Tag.pointwise in func.tags
        if there and func not in COPIES and not isinstance(value, Elsewhere) and not as_number:
            raise RuntimeError(f"mixed devices: {func} of tensors on {DEVICE} and one on the CPU, of the shape "
                               f"{tuple(value.shape)}")
    to_device = bool(there)
    if kwargs.get("device") is not None:
        to_device = kwargs["device"] == DEVICE
        kwargs = {**kwargs, "device": torch.device("cpu")}

    # An operation in place gives back what it was given.
    given = {id(held(value)): value for value in operands}

    def placed(value):
        if not isinstance(value, torch.Tensor):
            return value
        return given[id(value)] if id(value) in given else Elsewhere(value) if to_device else value

    return tree_map(placed, func(*tree_map(held, args), **tree_map(held, kwargs)))


def held(value):
    """What the operation is to work on."""
    return value.held if isinstance(value, Elsewhere) else value
