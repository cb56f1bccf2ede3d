"""Which device "auto" takes: a Mac's GPU only where it computes what the CPU does."""

import pytest
import torch

from tlg_lib.errors import TLGError
from tlg_lib.machine import device


@pytest.fixture(autouse=True)
def fresh():
    device.lacking.cache_clear()
    yield
    device.lacking.cache_clear()


def test_the_operators_that_are_tried_give_numbers_and_gradients():
    values = device._operators("cpu")
    assert torch.isfinite(values).all() and values.abs().sum() > 0 and values[-2 * 8 * 12 * 12 :].abs().max() > 0
    assert device.lacking("cpu") == ""


def test_a_device_that_lacks_operators_or_computes_wrongly_is_told(monkeypatch):
    assert device.lacking("meta"), "a device without numbers"
    right = device._operators
    monkeypatch.setattr(device, "_operators", lambda name: right("cpu") * (1.01 if name == "mps" else 1))
    assert "differ from the CPU" in device.lacking("mps")


@pytest.mark.parametrize("reason, expected", [("", "mps"), ("no such operator", "cpu")])
def test_auto_takes_a_macs_gpu_only_where_it_serves(monkeypatch, reason, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(device, "lacking", lambda name: reason)
    assert device.pick_device("auto").type == expected


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(TLGError, match="cannot be used here.*use device cpu"):
        device.pick_device("mps" if not torch.backends.mps.is_available() else "cuda:99")
