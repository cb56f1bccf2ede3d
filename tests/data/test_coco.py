"""COCO annotations to label maps, against pycocotools' own reading of the same file, and every fault."""

import contextlib
import io
import json
import zipfile

import numpy as np
import pytest

from tlg_lib.data.classes import COCO_CATEGORY_IDS
from tlg_lib.data.coco import make_coco, paint, read_annotations, region
from tlg_lib.data.folder import SegmentationFolder
from tlg_lib.data.images import read_mask
from tlg_lib.errors import TLGError

pytestmark = pytest.mark.usefixtures("own_home")


def oracle(notes):
    """Label maps painted by pycocotools' COCO class: crowds as 255, then instances by falling area."""
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(notes))
    maps = {}
    for image_id, image in coco.imgs.items():
        label = np.zeros((image["height"], image["width"]), np.uint8)
        instances = coco.loadAnns(coco.getAnnIds(image_id))
        for instance in [i for i in instances if i["iscrowd"]] + sorted(
            (i for i in instances if not i["iscrowd"]), key=lambda i: -i["area"]
        ):
            inside = coco.annToMask(instance).astype(bool)
            label[inside] = 255 if instance["iscrowd"] else COCO_CATEGORY_IDS.index(instance["category_id"]) + 1
        maps[image["file_name"][:-4]] = label
    return maps


def test_label_maps_equal_pycocotools(tiny_coco, tmp_path):
    summary = make_coco(tmp_path / "out", [tiny_coco], progress=False)
    assert summary["lists"] == {"train": 80, "val": 80} and summary["missing"] == 0
    compared = 0
    for side in ("train2014", "val2014"):
        for image, label in oracle(tiny_coco / "annotations" / f"instances_{side}.json").items():
            assert np.array_equal(read_mask(tmp_path / "out/SegmentationClassAug" / f"{image}.png"), label)
            compared += 1
    assert compared == 160
    # Every class number occurs at its place: image i of a side shows class i.
    first = read_mask(tmp_path / "out/SegmentationClassAug/COCO_train2014_000000000179.png")
    assert set(np.unique(first)) == {0, 80}


def test_folder_lists_and_folds(tiny_coco, tmp_path):
    make_coco(tmp_path / "out", [tiny_coco], progress=False)
    data = SegmentationFolder(tmp_path / "out", "coco")
    for fold in range(4):
        rows = data.test_rows(fold)
        assert {c for _, c in rows} == set(range(fold, 80, 4)) and all("val2014" in image for image, _ in rows)
        assert all("train2014" in image for image, _ in data.rows("trn", fold))


def test_crowd_as_class_and_overlaps():
    square = lambda a, b: [[a, a, b, a, b, b, a, b]]  # noqa: E731
    runs = {"size": [40, 40], "counts": [40 * 30, 40 * 10]}  # the right quarter
    instances = [
        {"category_id": 90, "iscrowd": 0, "area": 25, "segmentation": square(10, 15)},  # small, listed first
        {"category_id": 2, "iscrowd": 0, "area": 400, "segmentation": square(5, 35)},
        {"category_id": 1, "iscrowd": 1, "area": 400, "segmentation": runs},
    ]
    ignored, shown = paint(40, 40, instances), paint(40, 40, instances, "class")
    assert (ignored[11:14, 11:14] == 80).all()  # the small object lies on top of the large one
    assert (ignored[20, 6:34] == 2).all()  # a single instance wins over the crowd region
    assert (ignored[:, 36:] == 255).all() and (shown[:, 36:] == 1).all()
    assert (ignored[:4, :29] == 0).all()


def test_polygon_and_run_lengths_agree():
    inside = np.zeros((30, 20), np.uint8)
    inside[5:25, 4:16] = 1
    flat = inside.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = {"size": [30, 20], "counts": np.diff(np.r_[0, edges, flat.size]).tolist()}
    for outline in (runs, [[4, 5, 16, 5, 16, 25, 4, 25]]):
        assert np.array_equal(region(outline, 30, 20), inside.astype(bool))
    for nothing in ([], [[]], [[3, 4, 9, 9]]):
        assert not region(nothing, 30, 20).any()


def test_from_zip_archives_and_again(tiny_coco, tmp_path):
    archives = []
    for name in ("train2014", "val2014", "annotations"):
        archives.append(tmp_path / f"my_{name}.zip")
        with zipfile.ZipFile(archives[-1], "w") as file:
            for path in sorted((tiny_coco / name).iterdir()):
                file.write(path, f"{name}/{path.name}")
    first = make_coco(tmp_path / "out", archives, progress=False)
    assert first["images"] == 160 and not (tmp_path / "out" / ".unpacked").exists()
    assert make_coco(tmp_path / "out", [tmp_path / "nowhere"], progress=False) == first
    with pytest.raises(TLGError, match="no file or folder"):  # other settings: painted again, so sources are needed
        make_coco(tmp_path / "out", [tmp_path / "nowhere"], crowd="class", progress=False)


def test_other_crowd_rule_paints_again(tiny_coco, tmp_path):
    path = tmp_path / "out/SegmentationClassAug/COCO_val2014_000000000108.png"  # class 8 and a crowd
    make_coco(tmp_path / "out", [tiny_coco], progress=False)
    assert set(np.unique(read_mask(path))) == {0, 9, 255}
    make_coco(tmp_path / "out", [tiny_coco], crowd="class", progress=False)
    assert set(np.unique(read_mask(path))) == {0, 9, 1}
    with pytest.raises(TLGError, match="crowd=both"):
        make_coco(tmp_path / "out", [tiny_coco], crowd="both")


def test_missing_parts_are_named(tiny_coco, tmp_path):
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "train2014").symlink_to(tiny_coco / "train2014")
    with pytest.raises(TLGError, match="instances_train2014.json"):
        make_coco(tmp_path / "out", [tmp_path / "part"], progress=False)
    with pytest.raises(TLGError, match="folder train2014/"):
        make_coco(tmp_path / "out", [tiny_coco / "annotations"], progress=False)


@pytest.mark.parametrize(
    "change, word",
    [
        (lambda c: c["images"][3].update(file_name="../evil.jpg"), "image entry 3"),
        (lambda c: c["images"][3].update(height=-1), "image entry 3"),
        (lambda c: c["annotations"][2].update(category_id=12), "annotation 2 has category 12"),
        (lambda c: c.pop("images"), "not COCO instances"),
        (lambda c: c["annotations"][2].pop("segmentation"), "not COCO instances"),
        (lambda c: c.update(images="x"), "not COCO instances"),
    ],
)
def test_broken_annotations_are_named(tiny_coco, tmp_path, change, word):
    content = json.loads((tiny_coco / "annotations/instances_val2014.json").read_text())
    change(content)
    (tmp_path / "notes.json").write_text(json.dumps(content))
    with pytest.raises(TLGError, match=word) as caught:
        read_annotations(tmp_path / "notes.json")
    assert caught.value.code == 3 and "notes.json" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 5000])
def test_bytes_that_are_no_annotations(tmp_path, content):
    (tmp_path / "notes.json").write_bytes(content)
    with pytest.raises(TLGError, match="notes.json"):
        read_annotations(tmp_path / "notes.json")


@pytest.mark.parametrize(
    "outline",
    [
        [[1, 2, 3]],
        [[1, 2, 3, 4, 5, 1e300]],
        [["a"] * 6],
        None,
        5,
        {"size": [60, 80], "counts": "\x00"},
        {"size": [6, 8], "counts": [48]},
        {"size": [60, 80], "counts": [60]},
        {"size": [60, 80], "counts": [4801]},
        {"size": [60, 80], "counts": [4900, -100]},
    ],
)
def test_broken_outline_stops_with_the_image_named(tiny_coco, tmp_path, outline):
    source = tmp_path / "src"
    (source / "annotations").mkdir(parents=True)
    for side in ("train2014", "val2014"):
        (source / side).symlink_to(tiny_coco / side)
        content = json.loads((tiny_coco / "annotations" / f"instances_{side}.json").read_text())
        content["images"], content["annotations"] = content["images"][:3], content["annotations"][:2]
        content["annotations"][1]["segmentation"] = outline
        (source / "annotations" / f"instances_{side}.json").write_text(json.dumps(content))
    with pytest.raises(TLGError, match="COCO_train2014_000000000100: broken outline"):
        make_coco(tmp_path / "out", [source], progress=False)
    assert not (tmp_path / "out" / "dataset.json").exists()


@pytest.mark.parametrize("processes", [False, True])
def test_parallel_map_keeps_the_order_and_passes_errors_on(processes):
    import math

    from tlg_lib.machine.parallel import parallel_map

    numbers = [float(n) for n in range(600)]
    assert list(parallel_map(math.sqrt, numbers, "x", processes=processes, show=False)) == [n**0.5 for n in numbers]
    with pytest.raises(ValueError):
        list(parallel_map(math.sqrt, numbers[:599] + [-1.0], "x", processes=processes, show=False))


def edited(tiny_coco, tmp_path, change):
    """A copy of the source whose training annotations went through ``change``; returns its folder."""
    import shutil

    source = tmp_path / "source"
    shutil.copytree(tiny_coco, source)
    path = source / "annotations" / "instances_train2014.json"
    content = json.loads(path.read_text())
    change(content, source / "train2014")
    path.write_text(json.dumps(content))
    return source


def test_categories_are_told_by_name_whatever_their_numbers(tiny_coco, tmp_path):
    def renumber(content, _):
        new = {c["id"]: i + 1 for i, c in enumerate(content["categories"])}  # 1..80 without COCO's gaps
        for entry in content["annotations"]:
            entry["category_id"] = new[entry["category_id"]]
        for entry in content["categories"]:
            entry.update(id=new[entry["id"]], name=entry["name"].replace(" ", "_").title())

    make_coco(tmp_path / "plain", [tiny_coco], progress=False)
    make_coco(tmp_path / "renumbered", [edited(tiny_coco, tmp_path, renumber)], progress=False)
    for path in (tmp_path / "plain" / "SegmentationClassAug").iterdir():
        assert np.array_equal(read_mask(path), read_mask(tmp_path / "renumbered/SegmentationClassAug" / path.name))


def test_a_category_that_coco_does_not_have_is_named(tiny_coco, tmp_path):
    def rename(content, _):
        content["categories"][4]["name"] = "widget"

    with pytest.raises(TLGError, match=r"annotation \d+ has category 5 \(widget\), which is none of COCO's 80"):
        make_coco(tmp_path / "out", [edited(tiny_coco, tmp_path, rename)], progress=False)


def orient(folder, name, orientation, size=None):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.open(folder / name)
    (image.resize(size) if size else image).save(folder / name, quality=95, exif=exif)


@pytest.mark.parametrize("orientation", [3, 6])
def test_photographs_stay_in_the_frame_of_the_annotations(tiny_coco, tmp_path, orientation):
    from PIL import Image

    name = "COCO_train2014_000000000107.jpg"
    source = edited(tiny_coco, tmp_path, lambda content, folder: orient(folder, name, orientation))
    stored = np.array(Image.open(source / "train2014" / name))
    make_coco(tmp_path / "out", [source], progress=False)
    data = SegmentationFolder(tmp_path / "out", "coco")
    assert np.array_equal(data.image(name[:-4]), stored)
    assert np.array_equal(data.label(name[:-4]), oracle(source / "annotations/instances_train2014.json")[name[:-4]])
    assert Image.open(source / "train2014" / name).getexif()[0x0112] == orientation, "the user's file was changed"


def test_annotations_drawn_upright_keep_the_upright_photograph(tiny_coco, tmp_path):
    name = "COCO_train2014_000000000107.jpg"
    source = edited(tiny_coco, tmp_path, lambda content, folder: orient(folder, name, 6, size=(60, 80)))
    make_coco(
        tmp_path / "out", [source], progress=False
    )  # stored 60 wide, 80 high: shown 80 wide, 60 high, as annotated
    assert SegmentationFolder(tmp_path / "out", "coco").image(name[:-4]).shape == (60, 80, 3)


@pytest.mark.parametrize(
    "change, word",
    [
        ({"width": 60000, "height": 60000}, "60000 x 60000 pixels, more than 64 million"),
        ({"width": 81}, "has 80 x 60 pixels, instances_train2014.json says 81 x 60"),
    ],
)
def test_entries_that_claim_another_size_are_refused(tiny_coco, tmp_path, change, word):
    source = edited(tiny_coco, tmp_path, lambda content, _: content["images"][3].update(change))
    with pytest.raises(TLGError, match=word):
        make_coco(tmp_path / "out", [source], progress=False)


def test_one_over_long_name_does_not_end_the_batch(tiny_coco, tmp_path):
    source = edited(tiny_coco, tmp_path, lambda content, _: content["images"][3].update(file_name="x" * 230 + ".jpg"))
    assert make_coco(tmp_path / "out", [source], progress=False)["lists"] == {"train": 79, "val": 80}
