"""Features in 16 bits: what is rounded, how much less is kept, and what is refused."""

import pytest
import torch

from tlg_lib.data import features
from tlg_lib.errors import TLGError
from tlg_lib.experiment import open_experiment

from resume_jobs import tiny_config


def opened(voc, **changes):
    return open_experiment(tiny_config(str(voc), **changes), progress=False).store


def bytes_of(store):
    return sum(file.stat().st_size for file in store.folder.glob("layer*.npy"))


def test_half_precision_rounds_what_is_kept_and_what_is_not(tiny_voc, own_home):
    whole, half, passing = (
        opened(tiny_voc, cache_features=mode, feature_bits=bits) for mode, bits in (("on", 32), ("on", 16), ("off", 16))
    )
    ids = whole.data.image_ids[:16]  # the batch that the cache was filled with: equal bits
    for exact, kept, computed in zip(*(store(ids) for store in (whole, half, passing))):
        assert kept.dtype == torch.float32 and torch.equal(kept, computed)
        assert torch.equal(kept, exact.to(torch.float16).to(torch.float32)) and not torch.equal(kept, exact)
    heads = 128 * len(whole.maps)
    assert bytes_of(half) - heads == (bytes_of(whole) - heads) // 2
    assert whole.folder != half.folder
    again = opened(tiny_voc, cache_features="on", feature_bits=16)
    assert again.folder == half.folder and all(torch.equal(a, b) for a, b in zip(again(ids), half(ids)))


def test_auto_counts_the_bytes_that_will_be_kept(tiny_voc, own_home, monkeypatch):
    needed = bytes_of(opened(tiny_voc, cache_features="on"))
    monkeypatch.setattr(features, "CACHE_LIMIT", needed * 3 // 4)
    assert not opened(tiny_voc).cached and opened(tiny_voc, feature_bits=16).cached


def test_what_16_bits_cannot_hold_is_refused(tiny_voc, own_home, monkeypatch):
    store = opened(tiny_voc, cache_features="off", feature_bits=16)
    monkeypatch.setattr(store, "backbone", lambda images: [torch.full((len(images), 4, 2, 2), 7e4)])
    store.backbone.name = "large"
    with pytest.raises(TLGError, match="reach 7e\\+04.*feature_bits=32"):
        store(store.data.image_ids[:1])


def test_bits_may_come_from_the_command_line():
    assert tiny_config("", feature_bits="16").feature_bits == 16
    with pytest.raises(TLGError, match="feature_bits='8': choose one of 32, 16"):
        tiny_config("", feature_bits="8")
