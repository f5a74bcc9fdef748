"""Work is cut for a CPU here: into parts that its caches hold, and for as many threads as PyTorch has."""

import functools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.fourier_reparam import FourierReparamLinear

CHUNK = 2**14  # points: 8 MB of activations of 128 features

Part = TypeVar("Part")


def in_chunks(network: Iterable[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    """What the layers of a network, one after another, make of x (S, in).

    On a CPU they take `CHUNK` points at a time, and W = Λ B is computed once. The first layer is no ReLU: those work in
    place.
    """
    layers = [functools.partial(F.linear, weight=layer.weight, bias=layer.bias)
              if isinstance(layer, (nn.Linear, FourierReparamLinear))
              else torch.relu_ if isinstance(layer, nn.ReLU) else layer for layer in network]
    parts = [functools.reduce(lambda values, layer: layer(values), layers, part)
             for part in (x.split(CHUNK) if x.is_cpu else [x])]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


@functools.cache
def _workers(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))


def share_out(work: Callable[[Part], None], parts: Sequence[Part], device: torch.device) -> None:
    """Do work(part) for each part, in any order; on a CPU on as many threads as PyTorch has, each with one of its own.

    The parts have to write to different places, without a graph. PyTorch's operations let other threads run meanwhile.
    """
    work = torch.no_grad()(work)  # a thread does not know that of another
    threads = min(torch.get_num_threads(), len(parts)) if device.type == "cpu" else 1
    list(map(work, parts) if threads <= 1 else _workers(threads).map(work, parts))
