"""A folder of masks: right pixels, resumed without a difference, made again when anything that matters changed."""

import dataclasses
import json
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tlg_lib.data.folder import SegmentationFolder
from tlg_lib.errors import TLGError
from tlg_lib.look.sheets import mask_sheet
from tlg_lib.machine.parallel import WorkerKilled
from tlg_lib.masks import generate
from tlg_lib.masks.generate import MaskMaker, MaskRecipe, default_recipe, generate_masks, made_by, recipe_values
from tlg_lib.masks.prompts import load_prompts
from tlg_lib.masks.refine import crf_installed
from tlg_lib.masks.verify import score_stages, verify_masks

COLOURS = [(230, 40, 40), (40, 200, 60)]  # of classes 0 (aeroplane) and 1 (bicycle); the ground is grey


class ColourClip:
    """A CLIP that sees colour alone: channel k of its 8-pixel cells is how near they are to colour k, and the
    text vector of class k is channel k. What the masks must be is known without any network."""

    name, kind, weights, weights_file = "colours", "cnn", "by hand", ""

    def normalize(self, images):
        return images.float()

    def visual_features(self, pixels):
        small = F.avg_pool2d(pixels, 8)  # [B, 3, h, w]
        near = [(-(small - torch.tensor(c).view(1, 3, 1, 1)).abs().mean(1) / 20).exp() for c in COLOURS]
        return torch.stack([*near, torch.full_like(near[0], 0.3)], 1)  # [B, 3, h, w]

    def pool_and_project(self, features):
        return F.normalize(features.mean((2, 3)), dim=-1)

    def encode_text(self, texts):
        rows = torch.zeros(len(texts), 3)
        for row, text in zip(rows, texts):
            row[0 if "aeroplane" in text else 1 if "bicycle" in text else 2] = 1
        return rows


def picture(kinds, height=48, width=64):
    """(image, label): a square of class 0 on the left, one of class 1 on the right."""
    rng = np.random.default_rng(len(kinds) + 3 * kinds[0])
    image, label = np.full((height, width, 3), 128, np.uint8), np.zeros((height, width), np.uint8)
    for k in kinds:
        place = (slice(12, 36), slice(6 + 30 * k, 26 + 30 * k))
        image[place], label[place] = COLOURS[k], k + 1
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8), label


@pytest.fixture
def folder(tmp_path):
    """Four pictures in VOC layout: two of class 0 and 1 each alone, one of both, one higher than wide."""
    root = tmp_path / "voc"
    for name in ("JPEGImages", "SegmentationClassAug", "splits/trn", "splits/val"):
        (root / name).mkdir(parents=True)
    pictures = {"a": picture([0]), "b": picture([1]), "ab": picture([0, 1]), "tall": picture([0], 64, 48)}
    for name, (image, label) in pictures.items():
        Image.fromarray(image).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
        Image.fromarray(label).save(root / "SegmentationClassAug" / f"{name}.png")
    rows = {"trn": "a__01\nab__01\nab__02\n", "val": "b__02\ntall__01\n"}
    for split, text in rows.items():
        for fold in range(4):
            (root / "splits" / split / f"fold{fold}.txt").write_text(text if fold == 0 else "")
    return root


def data_of(root, **options):
    return SegmentationFolder(root, "pascal", **options)


RECIPE = MaskRecipe(affinity="none", refine="guided", scales=(1.0, 2.0))


def make(root, **options):
    settings = dict(recipe=RECIPE, progress=False)
    return generate_masks(data_of(root), ColourClip(), **{**settings, **options})


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def test_masks_are_written_in_the_authors_format(folder):
    assert made_by(folder / "PseudoMasks") == ""
    done = make(folder)
    assert (done["made"], done["kept"]) == (4, 0)
    recipe = json.loads((folder / "PseudoMasks" / "recipe.json").read_text())
    assert made_by(folder / "PseudoMasks") == f"{recipe['clip']} ({recipe['weights']})"
    data = data_of(folder)
    names = {"a--0.png", "b--1.png", "ab--0.png", "ab--1.png", "tall--0.png"}
    assert set(contents(folder / "PseudoMasks")) == set(contents(folder / "PseudoMasks_conf")) == names
    for image, class_id in (("a", 0), ("b", 1), ("ab", 0), ("ab", 1), ("tall", 0)):
        stored = Image.open(folder / "PseudoMasks" / f"{image}--{class_id}.png")
        assert stored.mode == "P", "a palette makes the mask visible in any viewer"
        assert stored.getpalette()[3:6] == [128, 0, 0]
        assert set(np.unique(np.array(stored))) == {0, class_id + 1}
        mask, truth = data.pseudo_mask(image, class_id), data.mask(image, class_id)
        assert mask.shape == truth.shape
        assert (mask & truth).sum() / (mask | truth).sum() > 0.6
        confidence = np.array(Image.open(folder / "PseudoMasks_conf" / f"{image}--{class_id}.png")) / 255
        assert confidence[truth == 1].mean() > 0.5 > 0.2 > confidence[truth == 0].mean()


def test_the_published_recipe_is_that_of_transformers_on_photographs():
    class Transformer(ColourClip):
        kind = "vit"

    for dataset in ("pascal", "coco"):
        recipe = default_recipe(Transformer(), dataset)
        assert (recipe.resample, recipe.edges, recipe.eps, recipe.confidence) == ("bicubic", "open", 1e-7, 0.0)
        assert default_recipe(Transformer(), dataset, edges="closed").edges == "closed"
    if crf_installed():
        assert default_recipe(Transformer(), "pascal", refine="crf").confidence == 0.95
    for recipe in (default_recipe(Transformer(), "mini"), default_recipe(ColourClip(), "pascal")):
        assert (recipe.resample, recipe.edges, recipe.eps, recipe.confidence) == ("bilinear", "closed", 0.0, 0.0)
    with pytest.raises(TLGError, match="edges='round': choose one of closed, open"):
        MaskRecipe(edges="round")


def test_pixels_of_low_confidence_are_written_as_255_and_no_others():
    image, _ = picture([0])
    recipe = MaskRecipe(affinity="none", refine="none", scales=(1.0,))
    maker = MaskMaker(ColourClip(), load_prompts("pascal"), recipe)
    sure = maker.one(image, (0,))
    doubtful = maker.with_recipe(dataclasses.replace(recipe, confidence=0.9)).one(image, (0,))
    low = sure.refined.max(0) < 0.9
    assert 0 < low.mean() < 1 and not (sure.label == 255).any()
    np.testing.assert_array_equal(doubtful.label == 255, low)
    np.testing.assert_array_equal(doubtful.label[~low], sure.label[~low])


def test_the_input_is_resized_as_the_recipe_says():
    """Bicubic against Pillow's, which CLIP-ES uses: equal within a grey value or two; bilinear is not."""
    image, _ = picture([0, 1])
    wanted = np.asarray(Image.fromarray(image).resize((128, 96), Image.Resampling.BICUBIC)).astype(int)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    errors = {}
    for mode in ("bicubic", "bilinear"):
        maker = MaskMaker(ColourClip(), load_prompts("pascal"), dataclasses.replace(RECIPE, resample=mode))
        found = maker._resized(pixels, 2.0)[0].permute(1, 2, 0).numpy().astype(int)
        errors[mode] = np.abs(found - wanted).max()
    assert errors["bicubic"] <= 2 < 5 < errors["bilinear"], errors


def test_a_second_call_keeps_what_matches_and_makes_what_does_not(folder):
    make(folder)
    before = contents(folder / "PseudoMasks")
    assert make(folder)["made"] == 0
    (folder / "PseudoMasks" / "b--1.png").unlink()
    assert make(folder)["made"] == 1
    (folder / "PseudoMasks_conf" / "ab--1.png").unlink()
    assert make(folder)["made"] == 1
    assert contents(folder / "PseudoMasks") == before
    Image.fromarray(picture([0], 56, 64)[0]).save(folder / "JPEGImages" / "a.jpg")  # another picture, another size
    assert make(folder)["made"] == 1
    assert Image.open(folder / "PseudoMasks" / "a--0.png").size == (64, 56)
    words = load_prompts("pascal").with_class("coffee mug")[0]
    for change in (dict(recipe=MaskRecipe(affinity="none", refine="none")), dict(prompts=words), dict(overwrite=True)):
        assert make(folder, **change)["made"] == 4
    assert make(folder, prompts=words)["made"] == 4, "the latest entry counts, not an earlier one"


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(folder, monkeypatch):
    make(folder)
    whole = contents(folder / "PseudoMasks"), contents(folder / "PseudoMasks_conf")
    for path in (*folder.glob("PseudoMasks*/*"),):
        path.unlink()
    calls, real = [], generate.save_masks

    def fail_at_the_third(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(generate, "save_masks", fail_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        make(folder, batch=1)
    monkeypatch.setattr(generate, "save_masks", real)
    log = folder / "PseudoMasks" / generate.LOG
    entries = log.read_text().splitlines()
    assert entries, "what was finished is on record at once"
    log.write_text("\n".join(entries) + '\n["half a li', encoding="utf-8")  # as a power cut leaves it
    again = make(folder, batch=1)
    assert again["kept"] == len(entries) and again["made"] == 4 - len(entries)
    assert (contents(folder / "PseudoMasks"), contents(folder / "PseudoMasks_conf")) == whole


def test_batches_hold_one_size_and_give_the_same_masks(folder):
    make(folder, batch=1)
    single = contents(folder / "PseudoMasks")
    make(folder, batch=16, overwrite=True)
    together = contents(folder / "PseudoMasks")
    for name, stored in single.items():
        assert stored == together[name]


def test_the_tower_sees_each_image_once_a_scale(folder, monkeypatch):
    seen, real = [], ColourClip.visual_features
    monkeypatch.setattr(ColourClip, "visual_features", lambda self, x: seen.append(len(x)) or real(self, x))
    both, once = picture((0, 1))[0], dataclasses.replace(RECIPE, scales=(1.0,))
    maker = MaskMaker(ColourClip(), load_prompts("mini"), once)
    for stages in maker([both, both], [(0, 1), (1, 0)]):
        assert stages.mask(0).any() and stages.confidence(1).any() and stages.spread.any() and stages.argmax.any()
    assert seen == [2], "one batch for all images, classes and stages"
    seen.clear()
    assert make(folder, recipe=once)["made"] == sum(seen) == 4
    seen.clear()
    assert make(folder)["made"] == 4 and sum(seen) == 2 * 4, "of two scales"


def test_processes_give_the_same_masks(folder, tmp_path):
    """Two workers and this process, on the shipped mini CLIP, which each worker loads by name."""
    from tlg_lib.masks.clips import load_clip

    data, clip = data_of(folder), load_clip("mini")
    for workers, out in ((0, "one"), (2, "two")):
        done = generate_masks(data, clip, None, tmp_path / out, workers=workers, batch=1, progress=False)
        assert done["made"] == 4
    assert contents(tmp_path / "one") == contents(tmp_path / "two") != {}


def test_naming_the_row_alone_ignores_the_other_class(folder):
    """With "row", only the asked class is named; with "present", the other one takes its own pixels."""
    recipe = MaskRecipe(affinity="none", refine="none", labels="row")
    assert make(folder, recipe=recipe)["made"] == 5  # rows, not images
    row_jobs = generate._jobs(data_of(folder), [("ab", 0), ("ab", 1)], recipe)
    assert [job.named for job in row_jobs] == [(0,), (1,)]
    (both,) = generate._jobs(data_of(folder), [("ab", 0)], RECIPE)
    assert both.named == (0, 1) and both.written == (0,)


def test_unsure_pixels_are_255_and_only_between_the_two(folder):
    data = data_of(folder)
    for unsure in (0.0, 0.4):
        maker = MaskMaker(ColourClip(), load_prompts("pascal"), MaskRecipe(affinity="none", unsure=unsure))
        stages = maker.one(data.image("ab"), (0, 1))
        best = np.sort(stages.refined, 0)
        np.testing.assert_array_equal(stages.label == 255, best[-1] - best[-2] < unsure)
        assert (stages.label == 255).any() == (unsure > 0)
        np.testing.assert_array_equal(stages.mask(0) == 255, stages.label == 255)


def test_large_images_are_worked_on_small_and_written_large(folder):
    image = np.asarray(Image.fromarray(data_of(folder).image("a")).resize((640, 480)))
    maker = MaskMaker(ColourClip(), load_prompts("pascal"), MaskRecipe(affinity="none", max_side=64, scales=(2.0,)))
    stages = maker.one(image, (0,))
    assert stages.label.shape == (480, 640) and stages.cam.shape == (1, 12, 16)
    truth = np.asarray(Image.fromarray(data_of(folder).label("a")).resize((640, 480), Image.Resampling.NEAREST))
    mask = stages.mask(0)
    assert (mask & truth).sum() / (mask | truth).sum() > 0.6


def test_a_broken_image_is_named_and_nothing_is_written_for_it(folder):
    path = folder / "JPEGImages" / "b.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(TLGError, match="b.jpg"):
        make(folder)
    assert not (folder / "PseudoMasks" / "b--1.png").exists()


@pytest.mark.parametrize(
    "values, named",
    [
        (dict(affinity="magic"), "affinity='magic'"),
        (dict(refine="magic"), "refine='magic'"),
        (dict(labels="magic"), "labels='magic'"),
        (dict(box_threshold=2.0), "box_threshold"),
        (dict(scales=()), "scales"),
        (dict(alpha=0.0), "alpha"),
        (dict(colour=1), "unknown mask setting 'colour'"),
    ],
)
def test_faulty_recipes_are_refused_by_field(values, named):
    with pytest.raises(TLGError, match=named):
        default_recipe(ColourClip(), "pascal", **values)


def test_attention_needs_a_transformer():
    with pytest.raises(TLGError, match="needs a transformer"):
        MaskMaker(ColourClip(), load_prompts("pascal"), MaskRecipe(affinity="attention"))


def test_settings_are_read_by_the_types_of_the_fields():
    read = recipe_values({"scales": "1,2.5", "half": "True", "max_side": "400", "alpha": "2", "refine": "none"})
    assert read == {"scales": (1.0, 2.5), "half": True, "max_side": 400, "alpha": 2.0, "refine": "none"}
    for name, text in (("max_side", "wide"), ("half", "maybe"), ("scales", "a,b"), ("alpha", "x")):
        with pytest.raises(TLGError, match=f"{name}={text}: expected"):
            recipe_values({name: text})


# --- checking masks


def test_report_counts_coverage_and_scores_like_a_plain_loop(folder):
    make(folder)
    report = verify_masks(data_of(folder), progress=False)
    assert report.coverage["trn", 0] == (3, 3) and report.coverage["val", 0] == (2, 2)
    assert report.coverage["val", 3] == (0, 0)
    assert report.usable and not report.empty
    data, expected = data_of(folder), []
    for class_id, images in ((0, ("a", "ab", "tall")), (1, ("b", "ab"))):
        inter = union = 0
        for image in images:
            mask, truth = data.pseudo_mask(image, class_id) == 1, data.label(image) == class_id + 1
            inter, union = inter + (mask & truth).sum(), union + (mask | truth).sum()
        expected.append(100 * inter / union)
    assert report.miou == pytest.approx({"fold0": np.mean(expected), "all": np.mean(expected)})
    assert report.per_class == pytest.approx({"aeroplane": expected[0], "bicycle": expected[1]})
    json.dumps(report.to_dict())


def test_report_names_every_fault(folder):
    make(folder)
    masks = folder / "PseudoMasks"
    (masks / "a--0.png").unlink()
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(masks / "b--1.png")
    Image.fromarray(np.full((64, 48), 37, np.uint8)).save(masks / "tall--0.png")
    (masks / "ab--0.png").write_bytes(b"")
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(masks / "ab--1.png")
    report = verify_masks(data_of(folder), progress=False)
    assert not report.usable
    assert report.missing == [("a", 0)] and report.empty == [("ab", 1)]
    assert report.coverage["trn", 0] == (2, 3)
    by_file = {name: [line for line in report.faults if name in line] for name in ("b--1", "tall--0", "ab--0")}
    assert all(len(lines) == 1 for lines in by_file.values()) and len(report.faults) == 3
    assert "10x10" in by_file["b--1"][0] and "64x48" in by_file["b--1"][0]
    assert "37" in by_file["tall--0"][0]


def test_whole_image_masks_from_elsewhere_are_read_in_place(folder, tmp_path):
    elsewhere = tmp_path / "download"
    elsewhere.mkdir()
    for name in ("a", "b", "ab", "tall"):
        Image.open(folder / "SegmentationClassAug" / f"{name}.png").save(elsewhere / f"{name}.png")
    report = verify_masks(data_of(folder, masks=elsewhere), progress=False)
    assert report.usable and report.miou == {"fold0": 100.0, "all": 100.0}


def test_without_truth_all_but_the_scores_is_reported(folder):
    make(folder)
    for path in (folder / "SegmentationClassAug").glob("*.png"):
        path.unlink()
    report = verify_masks(data_of(folder), progress=False)
    assert report.usable and report.miou == {}


def test_missing_folder_is_named(folder):
    with pytest.raises(TLGError, match="tlg masks make"):
        verify_masks(data_of(folder), progress=False)


def test_stages_are_scored_each_and_the_last_equals_the_written_masks(folder):
    make(folder)
    data = data_of(folder)
    maker = MaskMaker(ColourClip(), load_prompts("pascal"), RECIPE)
    found = score_stages(data, maker, generate.all_rows(data), progress=False)
    assert {"cam", "affinity", "argmax", "refined: guided", "refined: grabcut"} <= set(found)
    assert found["refined: guided"]["all"] == pytest.approx(verify_masks(data, progress=False).miou["all"])
    assert found["cam"] == found["affinity"], "without affinity the map passes on unchanged"
    assert found["refined: guided"]["all"] > found["cam"]["all"] > 20


def test_contact_sheet_shows_three_pictures_a_row(folder):
    make(folder)
    figure = mask_sheet(data_of(folder), [("a", 0), ("ab", 1)])
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 6
    assert "IoU" in " ".join(axes.get_title() for axes in shown)


def test_image_sizes_follow_the_exif_rotation(folder):
    path = folder / "JPEGImages" / "tall.jpg"
    image = Image.open(path)
    exif = image.getexif()
    exif[0x0112] = 6  # shown turned by a quarter
    image.save(path, exif=exif)
    (job,) = generate._jobs(data_of(folder), [("tall", 0)], RECIPE)
    assert generate._batches(data_of(folder), [job], 4) == [[job]]
    make(folder)
    assert Image.open(folder / "PseudoMasks" / "tall--0.png").size == (64, 48)


def test_counts_agree_with_the_metric_also_at_ignored_pixels():
    from tlg_lib.masks.verify import row_counts
    from tlg_lib.metrics import intersection_union

    rng = np.random.default_rng(0)
    truth = rng.choice([0, 1, 255], (30, 40)).astype(np.uint8)
    for share in (0.0, 0.3, 1.0):
        mask = rng.random((30, 40)) < share
        expected = intersection_union(torch.from_numpy(mask), torch.from_numpy(truth))
        np.testing.assert_array_equal(row_counts(mask, truth), torch.stack(expected).numpy())


def test_masks_made_elsewhere_are_never_written_over(tmp_path, own_home):
    from tlg_lib.config import make_config
    from tlg_lib.experiment import open_data

    from conftest import make_tiny_voc

    folder = make_tiny_voc(tmp_path / "mine", per_class=2)
    before = {p.name: p.read_bytes() for p in (folder / "PseudoMasks").iterdir()}
    open_data(make_config("mini", data=str(folder)))  # the wrong preset for a folder of one's own
    assert {p.name: p.read_bytes() for p in (folder / "PseudoMasks").iterdir()} == before and len(before) > 40
    for path in (folder / "PseudoMasks").iterdir():
        path.unlink()
    open_data(make_config("mini", data=str(folder)))
    made = {p.name for p in (folder / "PseudoMasks").glob("*.png")}
    assert made == {name for name in before if name.endswith(".png")}


def test_where_worker_processes_are_killed_the_masks_are_made_here(folder, monkeypatch):
    """As by a system short of memory, which may have enough for one process."""
    asked, real = [], generate.generate_masks

    def dying(*given, workers=0, **named):
        asked.append(workers)
        if workers:
            raise WorkerKilled("a worker process was killed", code=1)
        return real(*given, **named)

    monkeypatch.setattr(generate, "generate_masks", dying)
    monkeypatch.setattr("tlg_lib.masks.clips.load_clip", lambda name: ColourClip())
    monkeypatch.setattr(generate, "MANY", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    data = data_of(folder)
    generate.ensure_masks(data, progress=False)
    assert asked == [2, 0] and not data.missing_masks(generate.all_rows(data))
