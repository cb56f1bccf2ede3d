"""`tlg data verify` finds each fault that is planted in a good folder, and nothing in the good one."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from tlg_lib.cli import main
from tlg_lib.data.splits import build_splits
from tlg_lib.data.verify import REMEDIES, verify
from tlg_lib.errors import TLGError

pytestmark = pytest.mark.usefixtures("own_home")


@pytest.fixture
def folder(tiny_voc, tmp_path):
    root = tmp_path / "voc"
    shutil.copytree(tiny_voc, root)
    build_splits(root, "pascal")
    return root


def test_good_folder(folder):
    report = verify(folder, "pascal", progress=False)
    assert report.broken == 0 and report.images == report.masks == 80 and report.notes == []
    assert report.rows == {"trn": [15] * 4, "val": [15] * 4}
    by_hand = np.mean(
        [
            [(np.array(Image.open(p)) == c + 1).mean() for c in range(20)]
            for p in sorted((folder / "SegmentationClassAug").iterdir())
        ],
        axis=0,
    )
    for row, share in zip(report.classes, by_hand):
        # Two images of the class's own and one, drawn every second time, of the class five before: 4 + 2.
        assert row["images"] == 6 and (row["trn"], row["val"]) == (3, 3) and row["fold"] == row["class"] // 5
        assert row["share"] == pytest.approx(share, rel=1e-9)


def test_what_is_passed_over_and_what_is_read_in_part_is_told(folder):
    images = folder / "JPEGImages"
    os.mkfifo(images / "pipe.jpg")
    photo = Image.open(images / "2007_0300.jpg")
    (images / "2007_0300.jpg").unlink()
    photo.save(images / "2007_0300.webp", save_all=True, append_images=[Image.new("RGB", photo.size)])
    assert verify(folder, "pascal", progress=False).notes == [
        "1 links to nowhere and other names that hold no file in JPEGImages are not used (pipe.jpg)",
        "pictures of several frames, of which the first is used: 1 (2007_0300.webp)",
    ]


def edit(path, text):
    path.write_text(path.read_text() + text)


IMAGE, MASK = "JPEGImages/2007_0300.jpg", "SegmentationClassAug/2007_0300.png"
FAULTS = {
    "truncated JPEG": (
        "broken image",
        lambda r: (r / IMAGE).write_bytes((r / IMAGE).read_bytes()[:600]),
        "2007_0300.jpg",
    ),
    "zero-byte PNG": ("broken mask", lambda r: (r / MASK).write_bytes(b""), "2007_0300.png.*empty"),
    "truncated PNG": ("broken mask", lambda r: (r / MASK).write_bytes((r / MASK).read_bytes()[:90]), "2007_0300.png"),
    "16-bit PNG": ("broken mask", lambda r: Image.fromarray(np.zeros((60, 80), np.uint16)).save(r / MASK), "16-bit"),
    "mask in colour": ("broken mask", lambda r: Image.new("RGB", (80, 60)).save(r / MASK), "in colour"),
    "mask of another size": (
        "sizes differ",
        lambda r: Image.new("L", (60, 80), 4).save(r / MASK),
        "2007_0300.png: 80 x 60, but the image is 60 x 80",
    ),
    "class 37": ("class out of range", lambda r: Image.new("L", (80, 60), 37).save(r / MASK), "37, the highest is 20"),
    "image without mask": ("image without mask", lambda r: (r / MASK).unlink(), "2007_0300"),
    "mask without image": ("mask without image", lambda r: (r / IMAGE).unlink(), "2007_0300"),
    "two images of a name": (
        "same name twice",
        lambda r: Image.new("L", (80, 60)).save(r / "JPEGImages/2007_0300.png"),
        "2007_0300",
    ),
    "bad row": ("bad list", lambda r: edit(r / "splits/trn/fold2.txt", "2007_1000 11\n"), "fold2.txt line 16"),
    "list missing": ("bad list", lambda r: (r / "splits/val/fold0.txt").unlink(), "cannot read list"),
    "unknown id": ("image without mask", lambda r: edit(r / "splits/val/fold0.txt", "nobody__01\n"), "nobody"),
    "wrong class": (
        "class not in its image",
        lambda r: edit(r / "splits/val/fold0.txt", "2007_0000__03\n"),
        "2007_0000__03, but the mask has no bird",
    ),
    "one image": ("too few images", lambda r: (r / "splits/val/fold0.txt").write_text("2007_0000__01\n"), "aeroplane"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_found(folder, fault):
    import re

    kind, plant, word = FAULTS[fault]
    plant(folder)
    report = verify(folder, "pascal", progress=False)
    assert any(re.search(word, line) for line in report.problems[kind]), dict(report.problems)
    assert set(report.problems) <= set(REMEDIES)
    assert not any("\n" in line for lines in report.problems.values() for line in lines)


def test_command_prints_remedies_and_fails(folder, capsys):
    FAULTS["16-bit PNG"][1](folder)
    FAULTS["truncated JPEG"][1](folder)
    with pytest.raises(SystemExit) as end:
        main(["data", "verify", str(folder)])
    said = capsys.readouterr()
    assert end.value.code == 3 and said.err.splitlines()[-1].startswith("error: 2 problems in")
    assert "save it as 8-bit" in said.out and "restore the file from the source" in said.out


def test_command_on_a_good_folder(folder, capsys):
    with pytest.raises(SystemExit) as end:
        main(["data", "verify", str(folder)])
    assert end.value.code == 0 and "everything is readable" in capsys.readouterr().out


def test_unused_files_are_notes(folder):
    Image.new("RGB", (80, 60)).save(folder / "JPEGImages/extra.jpg")
    Image.new("L", (80, 60)).save(folder / "SegmentationClassAug/alone.png")
    report = verify(folder, "pascal", progress=False)
    assert report.broken == 0 and len(report.notes) == 2 and "extra" in report.notes[0] and "alone" in report.notes[1]


def test_folder_without_lists_and_missing_folder(folder):
    shutil.rmtree(folder / "splits")
    (folder / MASK).unlink()  # still named in ImageSets
    report = verify(folder, "pascal", progress=False)
    assert "no split lists" in report.notes[0] and report.problems["image without mask"]
    with pytest.raises(TLGError, match="no folder .*JPEGImages"):
        verify(folder / "nowhere")


def test_sheet_shows_the_label_maps(folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["data", "sheet", str(folder), "--out", str(tmp_path / "sheet.png"), "--count", "8"])
    assert end.value.code == 0 and "8 of 80 label maps" in capsys.readouterr().out
    picture = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))
    assert picture.shape[0] > 100 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 500
    from tlg_lib.look.sheets import colour_labels

    image, label = np.full((20, 20, 3), 100, np.uint8), np.zeros((20, 20), np.uint8)
    label[5:15, 5:15] = 1
    shown = colour_labels(image, label, strength=1.0)
    assert (shown[:4] == 100).all() and shown[10, 10].tolist() == [128, 0, 0] and shown[5, 10].tolist() == [255] * 3
