"""The mini benchmark: same bytes from the same seed, VOC layout, borders, lists and glyphs as promised."""

import hashlib
import json
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from tlg_lib.data.mini import glyphs as mini_glyphs
from tlg_lib.data.mini import make as mini
from tlg_lib.data.mini.glyphs import DISTRACTORS, GLYPHS, OPEN, class_glyphs, load_glyph
from tlg_lib.data.mini.make import LOCKED, contents, ensure_mini, is_locked, make_mini, verify_mini
from tlg_lib.data.mini.render import companions, plan_image, render
from tlg_lib.errors import TLGError

NAMES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor"
).split()
PER_CLASS, SIZE = 5, 64


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_mini(
        tmp_path_factory.mktemp("mini") / "mini",
        seed=3,
        images_per_class=PER_CLASS,
        size=SIZE,
        progress=False,
        workers=1,
    )


def bytes_of(root):
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


@pytest.mark.slow
def test_same_seed_same_bytes_with_two_workers_after_an_interruption(root, tmp_path):
    again = tmp_path / "again"
    command = (
        "from tlg_lib.data.mini.make import make_mini; import sys; "
        f"make_mini(sys.argv[1], 3, {PER_CLASS}, {SIZE}, progress=False, workers=1)"
    )
    process = subprocess.Popen([sys.executable, "-c", command, str(again)])
    while len(list(again.glob("JPEGImages/*.jpg"))) < 10 and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert 10 <= len(list(again.glob("JPEGImages/*.jpg"))) < 20 * PER_CLASS and not (again / "manifest.json").exists()
    for leftover in again.rglob("*.part"):  # what a kill may leave of the file in hand; never under a final name
        leftover.unlink()
    make_mini(again, 3, PER_CLASS, SIZE, progress=False, workers=2)
    assert bytes_of(again) == bytes_of(root)


def test_another_seed_gives_other_pictures():
    first, second = (render(seed, 6, 0, "trn", SIZE)[1] for seed in (3, 4))
    assert np.abs(first.astype(int) - second).mean() > 5


def test_layout_sizes_and_palette(root):
    images, labels = sorted(root.glob("JPEGImages/*.jpg")), sorted(root.glob("SegmentationClassAug/*.png"))
    assert [p.stem for p in images] == [p.stem for p in labels] and len(images) == 20 * PER_CLASS
    label = Image.open(labels[0])
    assert label.mode == "P" and label.size == (SIZE, SIZE) == Image.open(images[0]).size
    # Colours as the VOC development kit lists them: aeroplane, bicycle, person, tvmonitor, border.
    palette = np.array(label.getpalette()).reshape(-1, 3)
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {k: tuple(palette[k]) for k in known} == known


def test_objects_are_wrapped_in_a_thin_border(root):
    for path in sorted(root.glob("SegmentationClassAug/*.png")):
        label = np.asarray(Image.open(path))
        assert set(np.unique(label)) <= {0, 255, *range(1, 21)}
        # One step in any of four directions never leads from an object straight to another value but 255.
        for a, b in ((label[1:], label[:-1]), (label[:, 1:], label[:, :-1])):
            differ = (a != b) & (a != 255) & (b != 255)
            assert not differ.any(), path.name
        border, inside = (label == 255).sum(), ((label > 0) & (label < 255)).sum()
        assert 0 < border < SIZE * SIZE / 3 and inside > 0


def test_lists_follow_folds_split_and_pixel_rule(root):
    counted = {
        p.stem: Counter(np.asarray(Image.open(p)).ravel().tolist()) for p in root.glob("SegmentationClassAug/*.png")
    }
    train = (root / "ImageSets/Segmentation/train.txt").read_text().split()
    val = (root / "ImageSets/Segmentation/val.txt").read_text().split()
    assert sorted(train + val) == sorted(counted) and len(train) == 20 * 3 and not set(train) & set(val)
    for split, names in (("trn", train), ("val", val)):
        for fold in range(4):
            rows = [row.rsplit("__", 1) for row in (root / f"splits/{split}/fold{fold}.txt").read_text().split()]
            found = {(name, int(c)) for name, c in rows}
            assert len(found) == len(rows)
            assert found == {
                (name, c)
                for name in names
                for c in range(5 * fold + 1, 5 * fold + 6)
                if counted[name][c] >= 0.02 * SIZE * SIZE
            }
            assert {c for _, c in found} == set(range(5 * fold + 1, 5 * fold + 6))


def test_half_of_the_pictures_show_two_or_three_classes_balanced_over_all():
    planned = [plan_image(0, c, i, mini.split_of(i, 60)) for c in range(20) for i in range(60)]
    for split, number in (("trn", 36), ("val", 24)):
        shown = [[c for c, _ in p.objects] for p in planned if p.split == split]
        assert Counter(map(len, shown)) == {1: 10 * number, 2: 20 * number // 3, 3: 10 * number // 3}
        assert all(len(set(classes)) == len(classes) for classes in shown)
        beside = Counter(c for classes in shown for c in classes[1:])
        assert set(beside.values()) == {2 * number // 3}, "every class is a companion equally often"
    pairs = Counter((p.objects[0][0], c) for p in planned for c, _ in p.objects[1:])
    assert set(pairs) == {(a, b) for a in range(20) for b in range(20) if a != b} and set(pairs.values()) <= {2, 3}
    assert [companions(5, 3, i) for i in range(12)] == [companions(5, 3, i) for i in range(12)]
    assert [companions(5, 3, i) for i in range(12)] != [companions(6, 3, i) for i in range(12)]


def test_objects_of_one_picture_are_of_like_size(root):
    """The largest of a picture's objects covers at most three times what the smallest does, and each shows."""
    seen = [p for p in contents(root) if len(p["classes"]) > 1]
    assert len(seen) == 20 * (PER_CLASS // 2)
    for p in seen:
        label = np.asarray(Image.open(root / "SegmentationClassAug" / f"{p['image']}.png"))
        shares = [(label == c + 1).mean() for c in p["classes"]]
        assert min(shares) >= 0.02 and max(shares) <= 3.2 * min(shares), (p["image"], shares)


def test_the_locked_drawing_has_the_same_training_and_other_test_pictures(root, tmp_path):
    settings = dict(seed=3, images_per_class=PER_CLASS, size=SIZE, progress=False)
    locked = make_mini(tmp_path / "locked", **settings, test_seed=LOCKED)
    open_, shut = ({p["image"]: p for p in contents(folder)} for folder in (root, locked))
    drawn = [{n: (folder / "JPEGImages" / f"{n}.jpg").read_bytes() for n in open_} for folder in (root, locked)]
    same = [name for name in open_ if drawn[0][name] == drawn[1][name]]
    assert set(open_) == set(shut) and set(same) == {n for n, p in open_.items() if p["split"] == "trn"}
    assert is_locked(locked) and not is_locked(root)
    assert ensure_mini(locked, progress=False, locked=True) == locked
    with pytest.raises(TLGError, match="holds the locked drawing of mini: give another folder"):
        ensure_mini(locked)
    with pytest.raises(TLGError, match="holds an open drawing of mini"):
        ensure_mini(root, locked=True)


def test_pictures_of_training_alone_hold_no_test_glyph(tmp_path):
    """As the mini CLIP is taught on: train_share=1."""
    folder = make_mini(tmp_path / "taught", 101, 4, SIZE, progress=False, workers=1, train_share=1.0)
    images = json.loads((folder / "manifest.json").read_text())["images"].values()
    taught = {glyph for entry in images for glyph in entry["glyphs"]}
    assert taught and not taught & {g for name in NAMES for g in class_glyphs(name, "val")}
    assert not (folder / "ImageSets/Segmentation/val.txt").read_text()


def test_a_folder_of_an_older_generator_is_made_again_with_its_masks_gone(root):
    before, settings = bytes_of(root), json.loads((root / "generator.json").read_text())
    old = {k: v for k, v in settings.items() if k not in ("test_seed", "train_share")} | {"generator": 2}
    (root / "generator.json").write_text(json.dumps(old))
    (root / "PseudoMasks").mkdir()
    (root / "PseudoMasks" / "cow_000--9.png").write_bytes(b"of the old picture")
    assert ensure_mini(root, progress=False) == root
    assert bytes_of(root) == before and not (root / "PseudoMasks").exists()


def test_classes_have_names_and_disjoint_glyphs_for_training_and_test(root):
    assert list(GLYPHS) == NAMES
    for name in NAMES:
        train, val = class_glyphs(name, "trn"), class_glyphs(name, "val")
        assert len(train) >= 2 and len(val) >= 2 and not set(train) & set(val), name
    manifest = json.loads((root / "manifest.json").read_text())
    for entry in manifest["images"].values():
        allowed = {g for name in NAMES for g in class_glyphs(name, entry["split"])}
        assert set(entry["glyphs"]) <= allowed
    assert manifest["settings"]["seed"] == 3 and "sha256:" in manifest["settings"]["fonts"]["fonticon-fontawesome6"]


def test_every_glyph_draws_something_and_no_test_glyph_looks_like_a_training_glyph():
    for name in NAMES:
        shapes = {g: load_glyph(g, name in OPEN) for split in ("trn", "val") for g in class_glyphs(name, split)}
        for glyph_name, glyph in shapes.items():
            assert 0.02 < glyph.shape.mean() < 0.6, glyph_name
            assert (glyph.detail <= glyph.shape + 1e-9).all()
        pairs = [(a, b) for a in class_glyphs(name, "trn") for b in class_glyphs(name, "val")]
        assert all(np.abs(shapes[a].shape - shapes[b].shape).mean() > 0.02 for a, b in pairs), name
    assert all(load_glyph(g).shape.mean() > 0.01 for g in DISTRACTORS)


def test_objects_are_neither_specks_nor_whole_pictures():
    shares = []
    for class_id in range(20):
        _, _, label = render(11, class_id, 0, "trn", SIZE)
        shares.append((label == class_id + 1).mean())
    assert min(shares) >= 0.02 and max(shares) < 0.7 and np.std(shares) > 0.05


def test_manifest_notices_damage_and_ensure_repairs_it(root):
    before = bytes_of(root)
    assert verify_mini(root) == []
    victim = root / "JPEGImages" / "cow_001.jpg"
    victim.write_bytes(victim.read_bytes()[:-7])
    assert verify_mini(root) == ["JPEGImages/cow_001.jpg"]
    (root / "SegmentationClassAug" / "bus_000.png").unlink()
    ensure_mini(root, progress=False)
    assert bytes_of(root) == before


def test_a_complete_folder_is_left_alone(root, monkeypatch):
    monkeypatch.setattr(mini, "_make_one", lambda *_: pytest.fail("drew a picture again"))
    assert ensure_mini(root, progress=False) == root


def test_two_processes_at_once_make_one_dataset(tmp_path):
    command = (
        "import sys; from tlg_lib.data.mini.make import make_mini; "
        "make_mini(sys.argv[1], 5, 4, 64, progress=False, workers=1)"
    )
    running = [subprocess.Popen([sys.executable, "-c", command, str(tmp_path / "m")]) for _ in range(2)]
    assert [process.wait(timeout=300) for process in running] == [0, 0]
    assert verify_mini(tmp_path / "m") == [] and len(list((tmp_path / "m/JPEGImages").iterdir())) == 80


def test_folders_of_others_and_bad_settings_are_refused(tmp_path):
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(TLGError, match="holiday.*not the mini benchmark"):
        make_mini(tmp_path / "holiday")
    assert (tmp_path / "holiday" / "photo.jpg").read_bytes() == b"mine"
    with pytest.raises(TLGError, match="images_per_class=1 "):
        make_mini(tmp_path / "a", images_per_class=1)
    with pytest.raises(TLGError, match="no glyph 'flying-carpet'"):
        mini_glyphs.load_glyph("mdi:flying-carpet")
