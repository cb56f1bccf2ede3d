"""The public face: names that a program imports, a DataLoader of episodes, a folder that keeps a network."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

import tlg_lib
from tlg_lib import TLG, EpisodeDataset, TLGError, build_model, make_config, test_episodes
from tlg_lib.backbones import LAYOUTS
from tlg_lib.batches import BatchMaker
from tlg_lib.data.folder import open_folder
from tlg_lib.text_prior import random_text_vectors

from conftest import make_tiny_voc, script

SIZE = (64, 96)


def test_every_public_name_is_there_and_import_alone_loads_no_torch():
    for name in tlg_lib.__all__:
        assert getattr(tlg_lib, name).__module__.startswith("tlg_lib."), name
    with pytest.raises(AttributeError, match="nonsense"):
        tlg_lib.nonsense  # noqa: B018
    script = "import sys, tlg_lib; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_tables_and_figures_of_records_load_no_torch():
    script = "import sys, tlg_lib.runs.tables, tlg_lib.runs.trials, tlg_lib.look.figures_inside\n"
    script += "raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_episodes_plug_into_a_dataloader(tmp_path, workers):
    """Against the masks that the training loop is given, and whatever the number of workers."""
    make_tiny_voc(tmp_path / "voc")
    data = open_folder(str(tmp_path / "voc"), "pascal", "")
    rows = data.test_rows(0, True)
    episodes = test_episodes(rows, dataset="pascal", fold=0, shots=2, seed=0, count=5)
    loader = DataLoader(EpisodeDataset(data, episodes, SIZE), batch_size=3, num_workers=workers)
    first, last = loader
    assert first["query"].shape == (3, 3, *SIZE) and first["query"].dtype == torch.uint8
    assert first["support"].shape == (3, 2, 3, *SIZE) and last["truth"].shape == (2, *SIZE)

    class Store:
        device, cached = torch.device("cpu"), True

        def __call__(self, images):
            return [torch.zeros(len(images), 1, 8, 8)]

    config = make_config("mini", dataset="pascal", image_size=SIZE)
    expected = BatchMaker(config, data, Store())(episodes[:3])
    assert torch.equal(first["query_mask"], expected.query_mask)
    assert torch.equal(first["support_mask"], expected.support_mask)
    assert torch.equal(first["truth"], expected.truth) and first["truth"].max() > 0
    assert torch.equal(first["class_id"], expected.class_ids)


def test_a_network_comes_back_from_its_folder(tmp_path):
    layout, text = LAYOUTS["efficientnet_lite0"], random_text_vectors(20, 32, seed=3)
    model = build_model(make_config("mini", seed=5), layout, text).eval()
    path = model.save_pretrained(tmp_path / "kept")
    again = TLG.from_pretrained(tmp_path / "kept")
    assert path.parent == tmp_path / "kept" and not again.training and again.config == model.config
    assert torch.equal(again.text.attribute, text.attribute)
    sizes = layout.grids((128, 128))
    maps = [torch.randn(1, c, *sizes[next(k for k, lv in enumerate(layout.levels) if i in lv)])
            for i, c in enumerate(layout.channels)]  # fmt: skip
    mask = torch.ones(1, 1, 128, 128)
    with torch.no_grad():
        a, b = (m(maps, maps, mask, mask, torch.tensor([4]), False).query_logits for m in (model, again))
    assert torch.equal(a, b) and a.std() > 0
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(TLGError, match="not a whole checkpoint"):
        TLG.from_pretrained(tmp_path / "kept")


def test_the_api_page_is_made_from_the_docstrings_as_they_are():
    made = script("data_scripts/make_api.py")
    found = made.PAGE.read_text(encoding="utf-8")
    assert all(f"## {name}\n" in found for name in tlg_lib.__all__)
    assert found.count("### ") >= 10
    texts = [made.inspect.getdoc(getattr(tlg_lib, name)).splitlines()[0] for name in tlg_lib.__all__]
    stale = [text for text in texts if text not in found]
    assert not stale, "docs/api.md is out of date: run `python data_scripts/make_api.py`\n" + "\n".join(stale)


def test_what_readme_says_is_there_is_there():
    """Every place in the table "where is ...": a file, or a name in a module."""
    text = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    table = text.split("| where is ... | there |")[1].split("\n\n")[0]
    places = re.findall(r"`([A-Za-z_/.]+)`", table)
    for place in places:
        if place.endswith(".py"):
            assert (Path(tlg_lib.__file__).parent / place).is_file(), place
        else:
            module, *names = place.split(".")
            found = importlib.import_module(f"tlg_lib.{module.replace('/', '.')}")
            for name in names:
                found = getattr(found, name, None)
            assert found is not None, place
    assert len(places) > 12
