"""VOC and SBD from small archives of the official shape: what is merged, which mask wins, faults."""

import json
import os
import tarfile

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from tlg_lib.data import voc
from tlg_lib.data.images import read_mask, voc_palette
from tlg_lib.data.voc import make_voc, read_sbd
from tlg_lib.errors import TLGError

pytestmark = pytest.mark.usefixtures("own_home")
SIZE = (40, 50)


def label(value, border=False):
    """A square of one class; VOC's own masks have 255 around it, SBD's do not."""
    mask = np.zeros(SIZE, np.uint8)
    if border:
        mask[3:37, 3:37] = 255
    mask[5:35, 5:35] = value
    return mask


def write_sbd_mat(path, mask):
    savemat(
        path,
        {"GTcls": {"Segmentation": mask, "Boundaries": np.zeros(3), "CategoriesPresent": np.unique(mask)[1:]}},
        do_compression=True,
    )


# VOC train: a b; VOC val: c d; SBD train: b c e; SBD val: d f; g has no mask at all.
@pytest.fixture
def originals(tmp_path):
    devkit, sbd = (tmp_path / "src" / "VOCdevkit" / "VOC2012", tmp_path / "src" / "benchmark_RELEASE" / "dataset")
    for folder in (
        devkit / "JPEGImages",
        devkit / "SegmentationClass",
        devkit / "ImageSets" / "Segmentation",
        devkit / "Annotations",
        sbd / "cls",
        sbd / "img",
    ):
        folder.mkdir(parents=True)
    for i, image in enumerate("abcdefg"):
        Image.new("RGB", SIZE[::-1], (i * 30, 90, 10)).save(devkit / "JPEGImages" / f"{image}.jpg")
    (devkit / "Annotations" / "a.xml").write_text("<x/>")
    for image in "abcd":
        mask = Image.fromarray(label(1 + "abcd".index(image), border=True))
        mask.putpalette(voc_palette().tobytes())
        mask.save(devkit / "SegmentationClass" / f"{image}.png")
    for side, ids in (("train", "ab"), ("val", "cd"), ("trainval", "abcd")):
        (devkit / "ImageSets" / "Segmentation" / f"{side}.txt").write_text("\n".join(ids) + "\n")
    for image in "bcdef":
        write_sbd_mat(sbd / "cls" / f"{image}.mat", label(11 + "bcdef".index(image)))
    (sbd / "train.txt").write_text("b\nc\ne\n")
    (sbd / "val.txt").write_text("d\nf\n")
    return tmp_path / "src"


def pack(folder, path, mode):
    with tarfile.open(path, mode) as file:
        file.add(folder, folder.name)
    return path


def check_merge(target, summary):
    names = sorted(p.stem for p in (target / "SegmentationClassAug").glob("*.png"))
    assert names == list("abcdef") == sorted(p.stem for p in (target / "JPEGImages").iterdir())
    lists = {
        side: (target / "ImageSets" / "Segmentation" / f"{side}.txt").read_text().split()
        for side in ("train", "val", "train_aug")
    }
    assert lists == {"train": ["a", "b"], "val": ["c", "d"], "train_aug": ["a", "b", "e", "f"]}
    assert summary["own_masks"] == 4 and summary["from_sbd"] == 2 and summary["missing"] == 0
    for image, value in zip("abcd", (1, 2, 3, 4)):  # VOC's own mask wins over SBD's, with its border
        assert set(np.unique(read_mask(target / "SegmentationClassAug" / f"{image}.png"))) == {0, value, 255}
    for image, value in zip("ef", (14, 15)):
        assert np.array_equal(read_mask(target / "SegmentationClassAug" / f"{image}.png"), label(value))
    assert not any(p.name.startswith(".unpacked") or ".part" in p.name for p in target.rglob("*"))


def test_merge_from_folders_leaves_the_sources_alone(originals, tmp_path):
    before = sorted(p for p in originals.rglob("*"))
    summary = make_voc(tmp_path / "out", [originals], progress=False)
    check_merge(tmp_path / "out", summary)
    assert sorted(p for p in originals.rglob("*")) == before
    photo = "JPEGImages/a.jpg"
    assert os.path.samefile(originals / "VOCdevkit/VOC2012" / photo, tmp_path / "out" / photo)  # linked, not copied


def test_merge_from_archives(originals, tmp_path):
    archives = tmp_path / "downloads"
    archives.mkdir()
    pack(originals / "VOCdevkit", archives / "my_voc.tar", "w")
    pack(originals / "benchmark_RELEASE", archives / "my_sbd.tgz", "w:gz")
    summary = make_voc(tmp_path / "out", [archives / "my_voc.tar", archives / "my_sbd.tgz"], progress=False)
    check_merge(tmp_path / "out", summary)


def test_folder_of_archives_with_official_names_is_checked(originals, tmp_path, monkeypatch):
    archives = tmp_path / "downloads"
    archives.mkdir()
    pack(originals / "VOCdevkit", archives / voc.VOC.name, "w")
    pack(originals / "benchmark_RELEASE", archives / voc.SBD.name, "w:gz")
    with pytest.raises(TLGError, match="VOCtrainval_11-May-2012.tar: MD5 .* expected 6cd6e144") as caught:
        make_voc(tmp_path / "out", [archives], progress=False)
    assert caught.value.code == 3
    import hashlib
    from dataclasses import replace

    for name in ("VOC", "SBD"):
        source = getattr(voc, name)
        digest = hashlib.md5((archives / source.name).read_bytes()).hexdigest()
        monkeypatch.setattr(voc, name, replace(source, md5=digest))
    check_merge(tmp_path / "out", make_voc(tmp_path / "out", [archives], progress=False))


def test_finished_and_interrupted_calls(originals, tmp_path, monkeypatch):
    target = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(voc, "_convert", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        make_voc(target, [originals], progress=False)
    assert not (target / "dataset.json").exists()
    first = make_voc(target, [originals], progress=False)
    check_merge(target, first)
    assert make_voc(target, [tmp_path / "nowhere"], progress=False) == first  # done: the sources are not asked for
    (target / "SegmentationClassAug" / "e.png").unlink()
    with pytest.raises(TLGError, match="no file or folder"):  # no longer whole, so they are
        make_voc(target, [tmp_path / "nowhere"], progress=False)


def test_without_sbd(originals, tmp_path):
    summary = make_voc(tmp_path / "out", [originals / "VOCdevkit"], sbd=False, progress=False)
    assert summary["lists"] == {"val": 2, "train_aug": 2, "train": 2} and summary["from_sbd"] == 0


def test_ready_made_masks_are_taken(originals, tmp_path):
    ready = originals / "SegmentationClassAug"
    ready.mkdir()
    for image in "abcdef":
        Image.fromarray(label(7)).save(ready / f"{image}.png")
    summary = make_voc(tmp_path / "out", [originals / "VOCdevkit", originals], progress=False)
    assert summary["images"] == 6 and summary["lists"]["train_aug"] == 4
    assert set(np.unique(read_mask(tmp_path / "out/SegmentationClassAug/e.png"))) == {0, 7}
    assert set(np.unique(read_mask(tmp_path / "out/SegmentationClassAug/a.png"))) == {0, 1, 255}


def test_subset_counts_what_is_not_there(originals, tmp_path):
    (originals / "VOCdevkit/VOC2012/JPEGImages/c.jpg").unlink()
    summary = make_voc(tmp_path / "out", [originals], progress=False)
    assert summary["missing"] == 1 and summary["missing_examples"] == ["c"] and summary["lists"]["val"] == 1


def test_wrong_sources_are_named(tmp_path, originals):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.tar").write_text("x")
    for source, word in (
        (tmp_path / "empty", "neither VOC 2012"),
        (tmp_path / "absent", "no file or folder"),
        (tmp_path / "text.tar", "neither a folder nor"),
    ):
        with pytest.raises(TLGError, match=word) as caught:
            make_voc(tmp_path / "out", [source], progress=False)
        assert caught.value.code == 3 and not (tmp_path / "out" / "dataset.json").exists()


def test_offline_says_how_to_go_on(tmp_path, originals, monkeypatch):
    def offline(*_args, **_named):
        raise TLGError("cannot download: connect, or name it with --from", code=7)

    monkeypatch.setattr("tlg_lib.data.sources.download", offline)
    with pytest.raises(TLGError, match="--no-sbd") as caught:
        make_voc(tmp_path / "out", [originals / "VOCdevkit"], progress=False)
    assert caught.value.code == 7
    with pytest.raises(TLGError, match="--from"):
        make_voc(tmp_path / "out", progress=False)


def test_broken_mat_files(tmp_path):
    import pickle

    write_sbd_mat(tmp_path / "good.mat", label(20))
    assert np.array_equal(read_sbd(tmp_path / "good.mat"), label(20))
    content = (tmp_path / "good.mat").read_bytes()
    (tmp_path / "cut.mat").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.mat").write_bytes(b"")
    (tmp_path / "pickle.mat").write_bytes(pickle.dumps({"GTcls": 1}))
    savemat(tmp_path / "other.mat", {"x": np.zeros(3)})
    write_sbd_mat(tmp_path / "high.mat", label(37))
    for name in ("cut", "empty", "pickle", "other", "high", "absent"):
        with pytest.raises(TLGError, match=f"{name}.mat") as caught:
            read_sbd(tmp_path / f"{name}.mat")
        assert caught.value.code == 3


def test_command_makes_lists_and_says_what_it_found(originals, tmp_path, capsys):
    from tlg_lib.cli import main

    with pytest.raises(SystemExit) as end:
        main(["data", "voc", "--from", str(originals), "--out", str(tmp_path / "out")])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert "train_aug: 4 (the complete merge has 10,582)" in said and "4 with a mask of VOC, 2 of SBD" in said
    about = json.loads((tmp_path / "out/splits/about.json").read_text())
    assert about["min_area"] == round(2048 * 40 * 50 / (500 * 375)) and about["lists"] == "rule"
    assert (tmp_path / "out/splits/val/fold0.txt").read_text() == "c__03\nd__04\n"
    assert (tmp_path / "out/splits/trn/fold2.txt").read_text() == "e__14\nf__15\n"


def test_what_a_mac_adds_is_no_mask(originals, tmp_path):
    """__MACOSX/.../SegmentationClassAug holds only resource files: with it or without, the same dataset."""
    plain = make_voc(tmp_path / "plain", [originals], progress=False)
    aside = originals / "__MACOSX" / "SegmentationClassAug"
    aside.mkdir(parents=True)
    for path in sorted((tmp_path / "plain" / "SegmentationClassAug").iterdir()):
        (aside / f"._{path.name}").write_bytes(b"\0\5\26\7")
    for folder in [p for p in originals.rglob("JPEGImages") if p.is_dir()]:
        (folder / "._x.jpg").write_bytes(b"\0\5\26\7")
    assert make_voc(tmp_path / "mac", [originals], progress=False) == plain
