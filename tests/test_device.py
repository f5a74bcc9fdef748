"""The device that an option names, its memory and its precision."""

import pytest
import torch

from data.errors import UserError
from harness.device import choose_device, peak_memory, set_precision


def test_the_cuda_device_always_has_an_index(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    names = {"auto": 0, "cuda": 0, "cuda:1": 1}
    assert [choose_device(name).index for name in names] == list(names.values()) == [d.index for d in chosen]
    for name in ("cuda:2", "cuda:128", "cuda:4294967296"):
        with pytest.raises(UserError, match=name):
            choose_device(name)


def test_ranks_take_a_gpu_each(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert choose_device("cpu").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    for gpus, index in ((8, 3), (4, 3), (2, 1), (1, 0)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        assert choose_device("auto").index == choose_device("cuda").index == index
    assert choose_device("cuda:0").index == 0 and not peak_memory(torch.device("cpu"))


def test_precision_is_that_of_the_products_alone():
    device, layer, x = torch.device("cpu"), torch.nn.Linear(4, 4), torch.rand(2, 4)
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with set_precision(precision, device):
            assert layer(x).dtype == dtype and layer.weight.dtype == torch.float32
        assert torch.get_float32_matmul_precision() == "highest"
    with pytest.raises(UserError, match="tf32 needs a CUDA GPU"):
        set_precision("tf32", device)
