"""One listing of images and masks for every command, and what a run refuses before its first step."""

import os
import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image

from tlg_lib.data.folder import SegmentationFolder
from tlg_lib.data.images import in_frame
from tlg_lib.data.listing import list_images, list_masks
from tlg_lib.data.ready import check_files
from tlg_lib.data.splits import build_splits
from tlg_lib.data.verify import verify
from tlg_lib.errors import TLGError

pytestmark = pytest.mark.usefixtures("own_home")
FIRST = "2007_0002"  # trained on: class 0


@pytest.fixture
def root(tiny_voc, tmp_path):
    shutil.copytree(tiny_voc, tmp_path / "voc")
    return tmp_path / "voc"


def used(root):
    """(folder object, all rows) as a new process would open them."""
    data = SegmentationFolder(root, "pascal")
    return data, [row for split in ("trn", "val") for fold in range(4) for row in data.rows(split, fold)]


def ready(root):
    return check_files(*used(root), progress=False)


def refused(root, *words):
    with pytest.raises(TLGError) as caught:
        ready(root)
    assert caught.value.code == 3
    for word in words:
        assert word in str(caught.value), str(caught.value)


def repaint(folder, change):
    for path in folder.iterdir():
        Image.fromarray(change(np.array(Image.open(path))).astype(np.uint8)).save(path)


def test_what_is_listed_and_what_is_passed_over(tmp_path):
    for name in ("b.JPG", "a.webp", "._a.jpg", "c.heic", "d.jpg", "d.png", " e.jpg", "f\n.jpg", "x" * 201 + ".jpg"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "nowhere.jpg").symlink_to("/nowhere/x.jpg")
    with open(os.fsencode(tmp_path) + b"/\xff.jpg", "wb"):
        pass
    found = list_images(tmp_path)
    assert {i: p.name for i, p in found.files.items()} == {"a": "a.webp", "b": "b.JPG", "d": "d.jpg"}
    assert [p.name for p in found.twice["d"]] == ["d.png"] and found.foreign == ["c.heic"]
    assert found.dangling == ["nowhere.jpg"] and len(found.unfit) == 4
    assert list_images(tmp_path / "absent").files == {}


@pytest.mark.parametrize("change", ["upper case", "webp", "apple", "dangling"])
def test_the_same_folder_in_other_clothes_gives_the_same_rows_and_pixels(root, change):
    before = used(root)
    pixels = before[0].image(FIRST)
    for path in sorted((root / "JPEGImages").iterdir()):
        if change == "upper case":
            path.rename(path.with_suffix(".JPG"))
        elif change == "webp":
            Image.open(path).save(path.with_suffix(".webp"), lossless=True)
            path.unlink()
    for path in sorted((root / "SegmentationClassAug").iterdir()) if change == "upper case" else ():
        path.rename(path.with_suffix(".PNG"))
    if change == "apple":
        for folder in ("JPEGImages", "SegmentationClassAug", "PseudoMasks"):
            for path in list((root / folder).iterdir()):
                (root / folder / f"._{path.name}").write_bytes(b"\0\5\26\7")
    if change == "dangling":
        (root / "JPEGImages" / "2007_9999.jpg").symlink_to("/nowhere/x.jpg")
    data, rows = used(root)
    assert rows == before[1] and np.array_equal(data.image(FIRST), pixels) and ready(root) == []
    assert verify(root, "pascal", progress=False).broken == 0
    shutil.rmtree(root / "splits")
    assert {row for rows in build_splits(root)["val"].values() for row in rows} == set(rows[60:])


def test_another_unicode_form_is_the_same_name(root):
    nfd, nfc = (unicodedata.normalize(form, "Café_0") for form in ("NFD", "NFC"))
    (root / "JPEGImages" / f"{FIRST}.jpg").rename(root / "JPEGImages" / f"{nfd}.jpg")
    (root / "SegmentationClassAug" / f"{FIRST}.png").rename(root / "SegmentationClassAug" / f"{nfc}.png")
    (root / "PseudoMasks" / f"{FIRST}--0.png").rename(root / "PseudoMasks" / f"{nfd}--0.png")
    path = root / "splits" / "trn" / "fold0.txt"
    path.write_text(path.read_text().replace(FIRST, nfd), encoding="utf-8")
    data, rows = used(root)
    assert (nfc, 0) in rows and ready(root) == [] and data.pseudo_mask(nfc, 0).any()
    assert verify(root, "pascal", progress=False).broken == 0


def test_a_list_with_suffixes_is_understood_and_a_repeated_row_is_refused(root):
    path, before = root / "splits" / "trn" / "fold0.txt", used(root)[1]
    path.write_text(path.read_text().replace("__", ".jpg__"))
    assert used(root)[1] == before
    path.write_text(path.read_text() + "2007_0002__01\n")
    with pytest.raises(TLGError, match=r"fold0.txt line 16 repeats line \d"):
        used(root)
    assert any("repeats" in line for line in verify(root, "pascal", progress=False).problems["bad list"])


def test_lists_of_sides_with_suffixes_and_unknown_ids(root, capsys):
    shutil.rmtree(root / "splits")
    before = build_splits(root, write=False)
    side = root / "ImageSets" / "Segmentation" / "val.txt"
    names = side.read_text().split()
    side.write_text("\n".join(f"{n}.jpg" for n in [*names, names[0]]) + "\n")
    assert build_splits(root, write=False) == before
    side.write_text("\n".join([*names, "nobody"]) + "\n")
    assert build_splits(root, write=False) == before and "1 listed ids are not here (nobody)" in capsys.readouterr().out
    side.write_text("nobody\nnoone\n")
    with pytest.raises(TLGError, match="val.txt: none of its 2 ids"):
        build_splits(root, write=False)


def test_two_images_of_one_name_are_refused(root):
    Image.new("RGB", (80, 60)).save(root / "JPEGImages" / f"{FIRST}.png")
    refused(root, f"{FIRST}.jpg", "images of one name")


def test_listed_masks_must_be_there(root):
    path = root / "SegmentationClassAug" / f"{FIRST}.png"
    Image.open(path).save(path.with_suffix(".tif"))
    path.unlink()
    refused(root, "have no label map", f"fold0.txt: {FIRST}__01", "aeroplane", f"{FIRST}.tif")


def test_lists_off_by_one_class_are_refused_by_row(root):
    rows = [line.split("__") for line in (root / "splits/val/fold0.txt").read_text().split()]
    moved = [f"{i}__{int(c) % 5 + 1:02d}" for i, c in rows]
    (root / "splits/val/fold0.txt").write_text("\n".join(moved) + "\n")
    refused(root, "name a class that their label map does not show", "fold0.txt: ", ".png")


@pytest.mark.parametrize("value, word", [(255, "0 and 255 only"), (1, "hold 1 for every class")])
def test_true_masks_of_one_value_are_refused(root, value, word):
    repaint(root / "SegmentationClassAug", lambda m: np.where((m > 0) & (m < 255), value, 0))
    refused(root, word, "class number")
    assert verify(root, "pascal", progress=False).broken > 0
    if value == 255:
        shutil.rmtree(root / "splits")
        with pytest.raises(TLGError, match="0 and 255 only"):
            build_splits(root)


def test_true_masks_without_background_are_refused(root):
    repaint(root / "SegmentationClassAug", lambda m: np.where(m > 0, m, 255))
    refused(root, "no mask holds a 0", "write 0 outside the objects")
    assert "no mask holds a 0" in str(verify(root, "pascal", progress=False).problems)


@pytest.mark.parametrize(
    "change, word",
    [
        (lambda m: np.where(m > 0, m, 255), "no pseudo mask in use shows anything but its class"),
        (lambda m: np.full_like(m, m.max()), "no pseudo mask in use shows anything but its class"),
        (lambda m: np.where(m > 0, 255, 0), "255 means unsure"),
        (lambda m: 0 * m, "background alone"),
        (lambda m: np.where(m > 0, 1, 0), "class number 1, expected 0, 255 or 2 ('bicycle')"),
    ],
)
def test_pseudo_masks_that_show_nothing_or_another_number_are_refused(root, change, word):
    repaint(root / "PseudoMasks", change)
    refused(root, word, "PseudoMasks")


def test_one_class_of_255_alone_is_refused_and_one_of_nothing_is_told(root):
    for path in (root / "PseudoMasks").glob("*--7.png"):
        Image.fromarray(0 * np.array(Image.open(path))).save(path)
    assert ready(root) == ["no pseudo mask of 'cat' shows the class: see `tlg masks sheet`"]
    for path in (root / "PseudoMasks").glob("*--7.png"):
        Image.fromarray(np.full((60, 80), 255, np.uint8)).save(path)
    refused(root, "all pseudo masks of class 'cat'", "255 means unsure")


def test_pixels_are_read_once(root, monkeypatch):
    from tlg_lib.data import splits

    ready(root)
    monkeypatch.setattr(splits, "read_mask", lambda path: pytest.fail(f"read again: {path}"))
    ready(root)


# --- one frame for photograph and mask


def turned(root, orientation, size=(60, 80)):
    """The photograph of FIRST with an EXIF orientation; returns its stored pixels and its label as stored."""
    path = root / "JPEGImages" / f"{FIRST}.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.open(path).resize(size[::-1])
    image.save(path, quality=95, exif=exif)
    label = Image.open(root / "SegmentationClassAug" / f"{FIRST}.png").resize(size[::-1], 0)
    label.save(root / "SegmentationClassAug" / f"{FIRST}.png")
    return label


OPERATIONS = {  # what Pillow does to show a photograph upright
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@pytest.mark.parametrize("orientation", OPERATIONS)
def test_masks_of_the_stored_frame_turn_with_their_photograph(root, orientation):
    label = turned(root, orientation)
    pseudo = root / "PseudoMasks" / f"{FIRST}--0.png"
    data = SegmentationFolder(root, "pascal")
    upright = np.array(label.transpose(OPERATIONS[orientation]))
    assert np.array_equal(data.label(FIRST), upright) and data.image(FIRST).shape[:2] == upright.shape
    assert data.pseudo_mask(FIRST, 0).shape == upright.shape and ready(root) == []
    report = verify(root, "pascal", progress=False)
    assert report.broken == 0 and report.notes[0].startswith("1 masks were drawn on the stored pixels")
    for path in (root / "SegmentationClassAug" / f"{FIRST}.png", pseudo):  # drawn upright: taken as they are
        Image.fromarray(upright).save(path)
    assert np.array_equal(SegmentationFolder(root, "pascal").label(FIRST), upright)
    assert np.array_equal(in_frame(upright, data.image_path(FIRST)), upright)


def test_orientations_that_size_cannot_tell_are_counted(root):
    turned(root, 3)
    assert verify(root, "pascal", progress=False).notes[0].startswith("1 photographs are turned or mirrored by EXIF")
    assert ready(root)[0].startswith("1 photographs are turned by EXIF")


def test_a_mask_of_a_wrong_size_is_never_to_be_resized(root):
    from tlg_lib.data.verify import REMEDIES

    Image.new("L", (61, 80), 1).save(root / "SegmentationClassAug" / f"{FIRST}.png")
    refused(root, "80x61 pixels", "make it again")
    assert "resizing it alone would put it in the wrong place" in REMEDIES["sizes differ"]


# --- names


def test_names_that_no_list_can_hold_are_told_and_left_out(root, capsys):
    for name in ("new\nline", " lead", "x" * 230):
        for folder, suffix in (("JPEGImages", "jpg"), ("SegmentationClassAug", "png")):
            shutil.copy(root / folder / f"{FIRST}.{suffix}", root / folder / f"{name}.{suffix}")
    shutil.rmtree(root / "splits")
    build_splits(root)
    assert "left out, as their names do not fit in a list: 3 images" in capsys.readouterr().out
    assert ready(root) == [] and len(used(root)[1]) == 120
    lines = verify(root, "pascal", progress=False).problems["unfit name"]
    assert len(lines) == 6 and not any("\n" in line for line in lines)


def test_dollar_signs_are_no_mathematics(root, tmp_path):
    from tlg_lib.look.sheets import mask_sheet

    name = "p_$1_to_$9^{"
    (root / "JPEGImages" / f"{FIRST}.jpg").rename(root / "JPEGImages" / f"{name}.jpg")
    (root / "SegmentationClassAug" / f"{FIRST}.png").rename(root / "SegmentationClassAug" / f"{name}.png")
    (root / "PseudoMasks" / f"{FIRST}--0.png").rename(root / "PseudoMasks" / f"{name}--0.png")
    figure = mask_sheet(SegmentationFolder(root, "pascal"), [(name, 0)])
    figure.savefig(tmp_path / "sheet.png")
    assert any(name in axes.get_title() for axes in figure.axes)


def test_masks_of_other_kinds_are_noted(root):
    (root / "SegmentationClassAug" / "note.txt").write_text("x")
    assert list_masks(root / "SegmentationClassAug").foreign == ["note.txt"]
    assert verify(root, "pascal", progress=False).notes[0].startswith("1 files of other kinds in SegmentationClassAug")
