"""Split lists: the rule where areas are known, both ways of dividing, reading of every broken list."""

import hashlib
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from tlg_lib.data import splits
from tlg_lib.data.folder import SegmentationFolder
from tlg_lib.data.splits import SPLITS, build_splits, class_index, compare_splits, read_split
from tlg_lib.errors import TLGError

from conftest import make_tiny_voc

pytestmark = pytest.mark.usefixtures("own_home")


def read_splits(root, dataset):
    """All eight lists below root/splits."""
    lists = {(split, fold): root / "splits" / split / f"fold{fold}.txt" for split in SPLITS for fold in range(4)}
    return {split: {fold: read_split(lists[split, fold], dataset) for fold in range(4)} for split in SPLITS}


def folder_with(root, areas, size=(375, 500), val=()):
    """A folder with one label map per entry: {image: {value: pixels}}."""
    for name in ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    for image, counts in areas.items():
        flat = np.zeros(size[0] * size[1], np.uint8)
        at = 0
        for value, count in counts.items():
            flat[at : at + count] = value
            at += count
        Image.fromarray(flat.reshape(size)).save(root / "SegmentationClassAug" / f"{image}.png")
        Image.new("L", size[::-1]).save(root / "JPEGImages" / f"{image}.jpg")
    if val:
        (root / "ImageSets/Segmentation/val.txt").write_text("\n".join(val) + "\n")
    return root


def test_rule_is_at_least_2048_pixels_at_native_size(tmp_path):
    root = folder_with(
        tmp_path / "x", {"a": {1: 2048, 2: 2047, 255: 9000}, "b": {6: 5000, 1: 60000}, "c": {20: 2500}}, val=["c"]
    )
    built = build_splits(root, "pascal")
    assert built["trn"] == {0: [("a", 0), ("b", 0)], 1: [("b", 5)], 2: [], 3: []}
    assert built["val"] == {0: [], 1: [], 2: [], 3: [("c", 19)]}
    assert (root / "splits/trn/fold0.txt").read_text() == "a__01\nb__01\n"
    assert read_splits(root, "pascal") == built
    assert build_splits(root, "pascal", min_area=2047, write=False)["trn"][0] == [("a", 0), ("b", 0), ("a", 1)]


def test_threshold_shrinks_with_small_images_only(tmp_path):
    small = folder_with(tmp_path / "small", {"a": {1: 179}, "b": {1: 178}}, size=(128, 128), val=["b"])
    assert build_splits(small, "mini")["trn"][0] == [("a", 0)]  # 2,048 x 128 x 128 / (500 x 375) = 178.96
    assert splits.default_min_area({"a": {0: 480 * 640}}) == 2048 == splits.default_min_area({"a": {0: 500 * 333}})


def test_coco_folds(tmp_path):
    root = folder_with(tmp_path / "x", {"a": {2: 5000, 80: 5000}, "b": {3: 5000}}, val=["b"])
    built = build_splits(root, "coco")
    assert built["trn"][1] == [("a", 1)] and built["trn"][3] == [("a", 79)] and built["val"][2] == [("b", 2)]


def test_order_is_that_of_the_published_lists(tmp_path):
    """By class then image in trn, by image in val: query i of the test is row i."""
    areas = {"a": {2: 9000, 1: 9000}, "b": {1: 9000}, "c": {2: 9000, 1: 9000}, "d": {1: 9000}}
    built = build_splits(folder_with(tmp_path / "x", areas, val=["d", "c"]), "pascal")
    assert built["trn"][0] == [("a", 0), ("b", 0), ("a", 1)]
    assert built["val"][0] == [("c", 0), ("c", 1), ("d", 0)]


def test_without_lists_the_hash_decides_the_same_way_each_time(tmp_path, capsys):
    root = make_tiny_voc(tmp_path / "x", lists=False)
    first = build_splits(root, "pascal")
    assert "by the hash of the image id" in capsys.readouterr().out
    shutil.rmtree(root / "splits")
    assert build_splits(root, "pascal") == first
    sides = {split: {image for f in range(4) for image, _ in first[split][f]} for split in SPLITS}
    assert not sides["trn"] & sides["val"]
    for fold in range(4):
        for split in SPLITS:  # every class has a query and a support on either side
            counts = np.bincount([c for _, c in first[split][fold]], minlength=20)
            assert (counts[5 * fold : 5 * fold + 5] >= 2).all()


def test_folder_without_lists_builds_them_at_first_use(tmp_path):
    root = make_tiny_voc(tmp_path / "x", lists=False)
    data = SegmentationFolder(root, "pascal")
    rows = data.test_rows(1)
    assert rows and {c for _, c in rows} == {5, 6, 7, 8, 9}
    assert (root / "splits/val/fold1.txt").is_file()
    assert SegmentationFolder(root, "pascal").test_rows(1) == rows  # now read from disk
    for image, _ in data.training_rows(1):  # none of these shows a novel class
        assert not {6, 7, 8, 9, 10} & set(np.unique(data.label(image)))


def test_folder_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    root = make_tiny_voc(tmp_path / "x", lists=False)

    real = splits.Path.mkdir

    def refuse(path, *args, **named):
        if root in path.parents:
            raise PermissionError(13, "Permission denied")
        real(path, *args, **named)

    monkeypatch.setattr(splits.Path, "mkdir", refuse)
    assert build_splits(root, "pascal")["trn"][0] and not (root / "splits").exists()
    assert "not kept: cannot write" in capsys.readouterr().out


def test_train_aug_list_limits_training(tmp_path):
    root = folder_with(tmp_path / "x", {i: {1: 9000} for i in "abcd"}, val=["d"])
    (root / "ImageSets/Segmentation/train_aug.txt").write_text("a\nc\nd\nabsent\n")
    built = build_splits(root, "pascal")
    assert built["trn"][0] == [("a", 0), ("c", 0)] and built["val"][0] == [("d", 0)]


def test_class_37_in_a_mask_is_named(tmp_path):
    root = folder_with(tmp_path / "x", {"a": {37: 9000}})
    with pytest.raises(TLGError, match=r"a\.png: class number 37, but pascal has 1\.\.20"):
        build_splits(root, "pascal")
    assert not (root / "splits").exists()


def test_nothing_fits(tmp_path):
    root = folder_with(tmp_path / "x", {"a": {1: 9000}})
    (root / "JPEGImages/a.jpg").rename(root / "JPEGImages/b.jpg")
    with pytest.raises(TLGError, match="no image in JPEGImages has a label map of the same name"):
        build_splits(root, "pascal")


# --- index
def test_index_counts_and_follows_changes(tmp_path, monkeypatch):
    root = folder_with(tmp_path / "x", {"a": {1: 100, 255: 7}, "b": {2: 5}}, size=(20, 20))
    assert class_index(root) == {"a": {0: 293, 1: 100, 255: 7}, "b": {0: 395, 2: 5}}
    read = []
    monkeypatch.setattr(splits, "read_mask", lambda path: read.append(path.stem) or np.ones((2, 2), np.uint8))
    assert class_index(root)["a"] == {0: 293, 1: 100, 255: 7} and read == []  # from the cache
    Image.fromarray(np.full((20, 20), 9, np.uint8)).save(root / "SegmentationClassAug/b.png")
    assert class_index(root)["b"] == {1: 4} and read == ["b"]
    (root / "SegmentationClassAug/a.png").unlink()
    assert set(class_index(root)) == {"b"}


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"a": 5}', '{"a": [[1, 2], {"x": 1}]}'])
def test_damaged_index_is_made_again(tmp_path, own_home, damage):
    root = folder_with(tmp_path / "x", {"a": {1: 100}}, size=(20, 20))
    good = class_index(root)
    store = next((own_home / "cache" / "class_index").iterdir())
    store.write_text(damage)
    assert class_index(root) == good
    json.loads(store.read_text())


def test_index_names_a_broken_mask(tmp_path):
    root = folder_with(tmp_path / "x", {"a": {1: 100}, "b": {1: 5}, "c": {1: 5}}, size=(20, 20))
    for image in "bc":
        (root / f"SegmentationClassAug/{image}.png").write_bytes(b"")
    with pytest.raises(TLGError, match=r"b\.png.*empty.*and 1 more.*tlg data verify"):
        class_index(root)


# --- reading
@pytest.mark.parametrize(
    "content, word",
    [
        (b"2007_000032 01\n", "line 1: .*is not <image>__<class"),
        (b"2007_000032__01\n2007_000033_02\n", "line 2"),
        (b"2007_000032__1.5\n", "line 1"),
        (b"2007_000032__00\n", "class 0, but pascal has 1..20"),
        (b"2007_000032__21\n", "class 21, but"),
        (b"2007_000032__06\n", r"class 6 \(bus\) belongs to fold 1"),
        (b"../../etc/passwd__01\n", "not an image id"),
        (b"a\\b__01\n", "not an image id"),
        (b"a\x00b__01\n", "not an image id"),
        (b"x__01\n\xff\xfe__01\n", "line 2: not UTF-8"),
        (b"__01\n", "line 1"),
        (b"a__" + "\u0661".encode() + b"\n", "line 1: .*is not"),
    ],
)
def test_broken_lists_name_file_and_line(tmp_path, content, word):
    (tmp_path / "fold0.txt").write_bytes(content)
    with pytest.raises(TLGError, match=word) as caught:
        read_split(tmp_path / "fold0.txt", "pascal")
    assert "fold0.txt" in str(caught.value) and caught.value.code == 3


def test_lists_that_are_fine(tmp_path):
    (tmp_path / "fold0.txt").write_bytes(b"\xef\xbb\xbfa__b__01\r\n\r\n 2007_000032__5 \n")
    assert read_split(tmp_path / "fold0.txt", "pascal") == [("a__b", 0), ("2007_000032", 4)]
    (tmp_path / "mine.txt").write_text("a__20\n")  # another name: no fold is implied
    assert read_split(tmp_path / "mine.txt", "pascal") == [("a", 19)]
    (tmp_path / "fold1.txt").write_text("")
    assert read_split(tmp_path / "fold1.txt", "pascal") == []
    with pytest.raises(TLGError, match="cannot read list"):
        read_split(tmp_path / "absent.txt", "pascal")
    with pytest.raises(TLGError, match="cannot read list"):
        read_split(tmp_path, "pascal")


# --- published
def test_published_lists_must_be_the_known_ones(tmp_path, monkeypatch):
    root = make_tiny_voc(tmp_path / "x")
    source = tmp_path / "lists"
    facts = {"source": "test", "address": "http://127.0.0.1:9/", "files": {}}
    for split in SPLITS:
        (source / split).mkdir(parents=True)
        for fold in range(4):
            text = f"2007_{5 * fold:02d}00__{5 * fold + 1:02d}\n"
            (source / split / f"fold{fold}.txt").write_text(text)
            facts["files"][f"{split}/fold{fold}.txt"] = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "rows": 1}
    with pytest.raises(TLGError, match="fold0.txt is not HSNet's list"):
        splits.published_splits(root, source)
    assert not (root / "splits").exists()
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    monkeypatch.setattr(splits, "PUBLISHED", tmp_path / "facts.json")
    found = splits.published_splits(root, source)
    assert found["val"][2] == [("2007_1000", 10)] == read_splits(root, "pascal")["val"][2]
    (source / "val/fold3.txt").unlink()
    with pytest.raises(TLGError, match="no file .*fold3.txt"):
        splits.published_splits(root, source)


def test_known_facts_of_the_published_lists():
    facts = json.loads(splits.PUBLISHED.read_text())["files"]
    assert set(facts) == {f"{s}/fold{f}.txt" for s in SPLITS for f in range(4)}
    assert sum(f["rows"] for name, f in facts.items() if name.startswith("val")) == 1868
    assert all(len(f["sha256"]) == 64 for f in facts.values())


def test_comparison():
    empty = {f: [] for f in range(4)}
    first = {"trn": {**empty, 0: [("a", 0), ("b", 0), ("c", 1)]}, "val": empty}
    second = {"trn": {**empty, 0: [("b", 0), ("a", 0), ("d", 1)]}, "val": empty}
    row = compare_splits(first, second)[0]
    assert row == {
        "split": "trn",
        "fold": 0,
        "both": 2,
        "only_first": [("c", 1)],
        "only_second": [("d", 1)],
        "same_order": False,
    }
    assert all(r["both"] == 0 and r["same_order"] for r in compare_splits(first, second)[1:])


def shared(*parts):
    from pathlib import Path

    root = Path(os.environ.get("TLG_SHARED", Path(__file__).resolve().parents[3] / "shared")).joinpath(*parts)
    return root if root.exists() else None


@pytest.mark.skipif(shared("real", "voc632") is None, reason="needs ../shared/real/voc632 (real photographs)")
def test_rule_agrees_with_published_rows_on_real_photographs(tmp_path):
    """On the photographs that both know, 94% of all rows are in both (95% measured)."""
    root = tmp_path / "voc"
    root.mkdir()
    for name in ("JPEGImages", "SegmentationClassAug"):
        (root / name).symlink_to(shared("real", "voc632") / name)
    rule = build_splits(root, "pascal", write=False, progress=False)
    published = read_splits(shared("real", "voc632"), "pascal")
    rows = [{row for split in SPLITS for f in range(4) for row in lists[split][f]} for lists in (rule, published)]
    agreement = len(rows[0] & rows[1]) / len(rows[0] | rows[1])
    print(f"rows by rule {len(rows[0])}, published {len(rows[1])}, in both {len(rows[0] & rows[1])}: {agreement:.3f}")
    assert agreement > 0.94
