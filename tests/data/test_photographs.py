"""Files of users: what is taken for a photograph, where results go, and that nothing of theirs is written over."""

import json

import numpy as np
import pytest
from PIL import Image

from tlg_lib.data import photographs as p
from tlg_lib.data.images import read_image
from tlg_lib.errors import TLGError
from tlg_lib.machine.paths import notebooks_home
from tlg_lib.masks.drawn import drawn_mask


def save(path, value=90, size=(20, 12)):
    Image.fromarray(np.full((size[1], size[0], 3), value, np.uint8)).save(path)
    return path


def test_names_never_meet_however_the_photographs_are_called(tmp_path):
    long = "x" * 251
    names = ["a.jpg", "a.png", "A.webp", "a.png.jpg", "b.jpg", f"{long}.jpg", f"{long[:-1]}y.jpg", "é" * 120 + ".png"]
    stems = p.output_stems([tmp_path / name for name in names], tmp_path / "out")
    files = [p.output_path(stem, kind) for stem in stems for kind in p.KINDS]
    assert len({path.name.casefold() for path in files}) == 2 * len(names)
    assert stems[4].name == "b" and all(path.parent == tmp_path / "out" for path in files)
    for path in files:
        p.write_picture(path, np.zeros((2, 3), np.uint8))
        assert path.is_file()


def test_a_folder_gives_its_photographs_and_says_what_it_passes_over(tmp_path):
    for name in ("b.JPG", "a.jfif", "c.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name, format="PNG")
    for name in ("._b.JPG", ".DS_Store", "IMG_1.HEIC", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "folder.jpg").mkdir()
    p.write_picture(tmp_path / "c_mask.png", np.zeros((4, 4), np.uint8))
    assert [path.name for path in p.images_at(tmp_path)] == ["a.jfif", "b.JPG", "c.png"]
    assert [path.name for path in p.passed_over(tmp_path)] == ["IMG_1.HEIC", "notes.txt"]
    with pytest.raises(TLGError, match="HEIC is not read here: convert it to JPEG"):
        p.images_at(tmp_path / "IMG_1.HEIC")


def test_only_files_of_ours_that_nobody_changed_may_be_replaced(tmp_path):
    ours = tmp_path / "a_mask.png"
    p.write_picture(ours, np.eye(9, dtype=np.uint8) * 255)
    assert p.picture_is_ours(ours)
    image = Image.open(ours)
    image.load()
    about = p.PngInfo()
    about.add_text("Software", image.info["Software"])  # an editor that keeps what the file says of itself
    edited = np.array(image)
    edited[0] = 255
    Image.fromarray(edited).save(ours, pnginfo=about)
    assert not p.picture_is_ours(ours)
    assert not p.picture_is_ours(save(tmp_path / "photo.png"))

    query = save(tmp_path / "q.png")
    for path in (ours, save(tmp_path / "b_mask.png")):
        with pytest.raises(TLGError, match=f"{path.name} was not written by"):
            p.refuse_overwriting(tmp_path, [query], [query], [path], [])
    with pytest.raises(TLGError, match="q.png is an input"):
        p.refuse_overwriting(tmp_path, [query], [query], [query], [])
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(TLGError, match="link.png was not written"):
        p.refuse_overwriting(tmp_path, [query], [query], [tmp_path / "link.png"], [])
    for text in ("my own notes", "[1]", '{"made_by": "me"}'):
        (tmp_path / "summary.json").write_text(text)
        with pytest.raises(TLGError, match="summary.json was not written"):
            p.refuse_overwriting(tmp_path, [query], [query], [], [tmp_path / "summary.json"])
    (tmp_path / "summary.json").write_text('{"made_by": "tlg predict"}')
    p.refuse_overwriting(tmp_path, [query], [query], [tmp_path / "new_mask.png"], [tmp_path / "summary.json"])


def test_results_do_not_go_among_the_photographs(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (tmp_path / "link").symlink_to(photos, target_is_directory=True)
    for out in (photos, photos / "out", tmp_path / "link", photos / ".." / "photos" / "deep" / "er"):
        with pytest.raises(TLGError, match="lies in the query folder"):
            p.refuse_overwriting(out, [photos], [], [], [])
    p.refuse_overwriting(tmp_path / "out", [photos], [], [], [])


@pytest.mark.parametrize("form", ["rle", "polygons"])
def test_coco_tools_read_the_same_mask(form):
    """Oracle: pycocotools."""
    coco_mask = pytest.importorskip("pycocotools.mask")
    rows, columns = np.mgrid[:40, :50]
    mask = ((rows - 15) ** 2 + (columns - 20) ** 2 < 120) | ((rows > 30) & (columns > 40))
    if form == "rle":
        mask[0, 0] = mask[-1, -1] = mask[15, 20] = mask[15, 21] = False
        mask[0, 0] = True  # a mask that begins inside
    shape = p.coco_shape(mask, form)
    coded = shape["segmentation"]
    height, width = mask.shape
    parts = coco_mask.frPyObjects([coded] if form == "rle" else coded, height, width)
    decoded = coco_mask.decode(coco_mask.merge(parts)).astype(bool)
    if form == "rle":
        np.testing.assert_array_equal(decoded, mask)
        assert coco_mask.toBbox(coco_mask.merge(parts)).tolist() == shape["bbox"]
    else:
        assert (decoded & mask).sum() / (decoded | mask).sum() > 0.85 and len(coded) == 2
    assert shape["area"] == mask.sum()
    assert p.coco_shape(np.zeros((3, 3), bool), form) is None


def test_the_photographs_that_come_along_are_small_free_and_boxed():
    folder = notebooks_home() / "photos"
    listed = json.loads((folder / "photos.json").read_text())
    assert sorted(entry["file"] for entry in listed) == [path.name for path in p.images_at(folder)]
    for entry in listed:
        path = folder / entry["file"]
        image = read_image(path)
        assert path.stat().st_size <= 60_000 and max(image.shape) <= 400
        assert entry["licence"] in ("CC0 1.0", "public domain") and entry["source"] and entry["by"]
        assert bool(entry["box"]) == bool(entry["object"])
        if entry["box"]:
            x0, y0, x1, y1 = map(int, entry["box"].split(","))
            inside = drawn_mask(image, entry["box"]).astype(bool)
            assert inside[y0:y1, x0:x1].mean() > 0.2 and inside.sum() == inside[y0:y1, x0:x1].sum()
    assert sum(entry["object"] == "person" for entry in listed) == 3


def test_folders_inside_are_told_and_not_looked_into(tmp_path):
    (tmp_path / "more").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "more" / "a.jpg")
    with pytest.raises(TLGError, match=r"folders inside are not looked into \(more\): name one of them"):
        p.images_at(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "b.jpg")
    assert [f.name for f in p.images_at(tmp_path)] == ["b.jpg"] and len(p.folders_note(tmp_path)) == 1
    assert p.folders_note(tmp_path / "b.jpg") == []


@pytest.mark.parametrize("ask", [p.images_at, p.folders_note, p.passed_over])
def test_a_home_of_nobody_is_one_line(ask):
    with pytest.raises(TLGError, match="no path that can be used"):
        ask("~nosuchuser/photos")
