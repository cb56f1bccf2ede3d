"""Commands that are told to write where something of the user's lies: refused in one line, and every byte stays."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlg_lib.cli import main
from tlg_lib.data.splits import build_splits
from tlg_lib.errors import TLGError

from conftest import make_tiny_coco, make_tiny_voc


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def refused(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as done:
        main([str(a) for a in arguments])
    lines = capsys.readouterr().err.strip().splitlines()
    assert done.value.code == 2 and lines[-1].startswith("error: "), lines
    return lines[-1]


@pytest.mark.parametrize("from_itself", [False, True])
def test_a_dataset_is_not_made_into_a_folder_of_the_users(tmp_path, capsys, from_itself):
    mine = make_tiny_voc(tmp_path / "mine", classes=2)
    source = mine if from_itself else make_tiny_voc(tmp_path / "source", classes=3, seed=1)
    (mine / "SegmentationClass").symlink_to("SegmentationClassAug")
    (source / "SegmentationClass").exists() or (source / "SegmentationClassAug").rename(source / "SegmentationClass")
    before = contents(mine)
    line = refused(capsys, "data", "voc", "--from", source, "--no-sbd", "--out", mine)
    assert "files that were not made by `tlg data` (ImageSets, JPEGImages, PseudoMasks, ...)" in line
    assert contents(mine) == before


def test_coco_is_not_painted_over_the_users_masks_and_goes_on_where_it_was_stopped(tmp_path, capsys, monkeypatch):
    source, mine = make_tiny_coco(tmp_path / "coco", per_side=4), tmp_path / "mine"
    (mine / "SegmentationClassAug").mkdir(parents=True)
    (mine / "SegmentationClassAug" / "COCO_train2014_000000000100.png").write_bytes(b"hours of work")
    before = contents(mine)
    assert "choose" not in refused(capsys, "data", "coco", "--from", source, "--out", mine)
    assert contents(mine) == before

    from tlg_lib.data import coco

    with monkeypatch.context() as patch:
        patch.setattr(coco, "_convert_side", lambda *a: (_ for _ in ()).throw(TLGError("stopped here")))
        assert "stopped here" in refused(capsys, "data", "coco", "--from", source, "--out", tmp_path / "new")
    assert coco.make_coco(tmp_path / "new", [source], progress=False)["images"] == 8


def test_pseudo_masks_that_were_made_elsewhere_are_not_made_again(tmp_path, own_home):
    from tlg_lib.data.folder import SegmentationFolder
    from tlg_lib.masks.clips import load_clip
    from tlg_lib.masks.generate import generate_masks

    root = make_tiny_voc(tmp_path / "mine", classes=20, per_class=2)
    build_splits(root)
    before = contents(root / "PseudoMasks")
    data = SegmentationFolder(root, "pascal")
    with pytest.raises(TLGError, match="masks that were not made here.*--overwrite"):
        generate_masks(data, load_clip("mini"), progress=False)
    assert contents(root / "PseudoMasks") == before and not (root / "PseudoMasks_conf").exists()


def test_a_sheet_takes_the_place_of_a_sheet_only(tmp_path, capsys, own_home):
    root = make_tiny_voc(tmp_path / "mine", classes=20, per_class=2)
    build_splits(root)
    photo = next((root / "JPEGImages").iterdir())
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "mine.png")
    (tmp_path / "mine.json").write_text('{"mine": 1}')
    before = contents(tmp_path)
    for out in (photo, tmp_path / "mine.png", tmp_path / "mine.json"):
        assert "was not drawn here" in refused(capsys, "data", "sheet", root, "--out", out)
        assert "was not drawn here" in refused(capsys, "masks", "sheet", "--data", root, "--fold", "0", "--out", out)
    capsys.readouterr()
    assert contents(tmp_path) == {**contents(tmp_path), **before}
    for _ in range(2):  # its own it may replace
        with pytest.raises(SystemExit) as done:
            main(["data", "sheet", str(root), "--out", str(tmp_path / "new.png")])
        assert done.value.code == 0, capsys.readouterr().err


def test_a_training_does_not_write_into_another_programs_folder(tmp_path, tiny_voc, own_home):
    from tlg_lib.train import train

    from resume_jobs import tiny_config

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(TLGError, match="config.json is there already and is no config of a training"):
        train(tiny_config(str(tiny_voc)), tmp_path / "model", progress=False)
    assert contents(tmp_path / "model") == {"config.json": b'{"model_type": "bert"}'}


def test_a_link_is_not_followed_to_a_file_of_the_users(tmp_path, capsys):
    """The name is replaced, not what it points to."""
    from tlg_lib.machine.paths import write_json

    (tmp_path / "precious").write_text("mine")
    os.symlink(tmp_path / "precious", tmp_path / "results.json")
    write_json(tmp_path / "results.json", {"miou": 1})
    assert (tmp_path / "precious").read_text() == "mine" and not (tmp_path / "results.json").is_symlink()
