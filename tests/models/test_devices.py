from pathlib import Path

import pytest
import torch

from sam_bloodcell.models.devices import choose, half_dtype


def test_auto_is_cuda_where_there_is_one():
    assert choose("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.cuda
def test_a_gpu_is_chosen_by_itself_and_by_its_name(gpu):
    by_name, by_itself = choose(gpu), choose("auto")
    assert by_name.type == by_itself.type == gpu
    assert torch.ones(1, device=by_itself).device.type == gpu


@pytest.mark.cuda
def test_a_gpu_computes_in_bfloat16_where_it_can(gpu):
    half = half_dtype(torch.device(gpu))
    assert half in (torch.bfloat16, None)
    if gpu == "cuda" and torch.cuda.get_device_capability() >= (8, 0):
        assert half == torch.bfloat16


def test_cpu_is_taken_at_its_word():
    assert choose("cpu") == torch.device("cpu")


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="Got device='abacus' but expected 'auto', 'cpu' or 'cuda'"):
        choose("abacus")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_without_cuda_names_the_fix(device):
    with pytest.raises(ValueError, match=f"Got device='{device}' but torch sees no CUDA.*Fix: device='auto'"):
        choose(device)


def test_half_is_bfloat16_only_where_the_cpu_has_it():
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        pytest.skip("no /proc/cpuinfo to compare with")
    flags = cpuinfo.read_text()
    native = "avx512_bf16" in flags or "amx_tile" in flags
    assert half_dtype(torch.device("cpu")) == (torch.bfloat16 if native else None)


def test_half_is_left_out_where_torch_cannot_ask_the_cpu(monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):  # torch 2.4 has neither
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert half_dtype(torch.device("cpu")) is None
