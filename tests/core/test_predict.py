"""Prediction on photographs of any kind and size: files written at the query's own size, faults named."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from tlg_lib.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from tlg_lib.config import make_config
from tlg_lib.data.images import read_image
from tlg_lib.data.photographs import images_at
from tlg_lib.errors import TLGError
from tlg_lib.machine.downloads import sha256_of
from tlg_lib.machine.paths import notebooks_home
from tlg_lib.masks.drawn import drawn_mask
from tlg_lib.predict import PHOTO, FewShotPredictor, latest_checkpoint
from tlg_lib.runs.photographs import predict_files

from conftest import script


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TLG_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def photograph():
    """A generated picture with a car, uint8 [128, 128, 3]."""
    from tlg_lib.data.mini.render import render

    return render(0, 6, 0, "trn", 128)[1]


def save(array, path, **options):
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(path, **options)
    return path


def trained_stub(folder, **overrides):
    """A checkpoint of an untrained network, as training would write it."""
    from tlg_lib.backbones import load_backbone
    from tlg_lib.model import build_model
    from tlg_lib.text_prior import random_text_vectors

    config = make_config("smoke", **overrides)
    model = build_model(config, load_backbone(config), random_text_vectors(20, 128) if config.use_hc else None)
    path = folder / "checkpoint.safetensors"
    save_checkpoint(path, Checkpoint(config, model.state_dict(), {}, {"step": 0}))
    return path


def test_every_kind_of_image_is_segmented_at_its_own_size(tmp_path, photograph):
    """EXIF rotation, grey, palette, transparency, CMYK; a folder of queries, one of them broken."""
    wide = Image.fromarray(photograph).resize((150, 90))
    queries = tmp_path / "queries"
    queries.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    sizes = {}  # (height, width) as displayed
    for name, image, options in (
        ("turned.jpg", wide, {"exif": exif}),
        ("grey.png", wide.convert("L"), {}),
        ("palette.png", wide.convert("P"), {}),
        ("clear.png", wide.convert("RGBA"), {}),
        ("ink.jpg", wide.convert("CMYK"), {}),
        ("small.png", wide.resize((40, 31)), {}),
    ):
        save(image, queries / name, **options)
        sizes[name] = (150, 90) if name == "turned.jpg" else image.size[::-1]
    save(wide, queries / "grey.jpg")  # the same stem as grey.png: neither may overwrite the other
    sizes["grey.jpg"] = (90, 150)
    (queries / "broken.jpg").write_bytes((queries / "ink.jpg").read_bytes()[:300])
    (queries / "notes.txt").write_text("no image")
    support = save(photograph, tmp_path / "support.png")

    summary = predict_files(queries, [support], "car", tmp_path / "out", progress=False)
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    found = {entry["query"].rsplit("/", 1)[-1]: entry for entry in summary["queries"]}
    assert set(found) == {*sizes, "broken.jpg"}
    assert "broken.jpg" in found["broken.jpg"]["error"] and "mask" not in found["broken.jpg"]
    assert len({entry["mask"] for name, entry in found.items() if name != "broken.jpg"}) == len(sizes)
    for name, (height, width) in sizes.items():
        entry = found[name]
        mask, overlay = Image.open(entry["mask"]), Image.open(entry["overlay"])
        assert mask.size == overlay.size == (width, height) and (entry["height"], entry["width"]) == (height, width)
        values = np.array(mask)
        assert mask.mode == "L" and set(np.unique(values)) <= {0, 255}
        assert entry["share"] == pytest.approx((values == 255).mean(), abs=1e-4)
    assert "training-free" in summary["method"] and any("no trained network" in note for note in summary["notes"])
    assert summary["clip"].startswith("mini (sha256:")


def test_prediction_by_fusion_finds_the_car(tmp_path, photograph):
    from tlg_lib.data.mini.render import render

    _, query, label = render(0, 6, 1, "trn", 128)
    predictor = FewShotPredictor("car", checkpoint="none")
    found = predictor.segment(query, predictor.support([photograph]))
    truth, valid = label == 7, label != 255
    iou = (found.mask & truth).sum() / ((found.mask & valid) | truth).sum()
    assert iou > 1.5 * truth.mean(), "better than calling everything a car"
    assert found.probability.shape == truth.shape and 0 <= found.probability.min() <= found.probability.max() <= 1


def test_a_checkpoint_is_used_for_a_class_that_it_never_heard_of(tmp_path, photograph):
    path = trained_stub(tmp_path)
    support, query = save(photograph, tmp_path / "s.png"), save(photograph[:100], tmp_path / "q.png")
    summary = predict_files(query, [support, support], "coffee mug", tmp_path / "out", progress=False, checkpoint=path)
    assert summary["method"].startswith("TLG extended, pixel labels") and str(path) in summary["method"]
    assert len(summary["support"]) == 2
    assert any("does not know" in note and "mug" in note for note in summary["notes"])
    assert Image.open(summary["queries"][0]["mask"]).size == (128, 100)


def test_prediction_equals_the_network_on_the_same_inputs(tmp_path, photograph):
    """The file path (text vectors of the class, features, masks, batch) against the network called by hand."""
    from tlg_lib.backbones import load_backbone
    from tlg_lib.masks.clips import load_clip
    from tlg_lib.masks.generate import MaskMaker, default_recipe
    from tlg_lib.masks.prompts import load_prompts
    from tlg_lib.model import build_model
    from tlg_lib.prototypes import deep_features, prototype_probability
    from tlg_lib.text_prior import text_vectors

    path = trained_stub(tmp_path)
    query = np.ascontiguousarray(photograph[:, ::-1])
    predictor = FewShotPredictor("car", checkpoint=path)
    found = predictor.segment(query, predictor.support([photograph]))

    config, clip, prompts = make_config("smoke"), load_clip("mini"), load_prompts("mini")
    backbone = load_backbone(config)
    model = build_model(config, backbone, text_vectors(clip, prompts)).eval()
    from tlg_lib.checkpoints import load_checkpoint

    model.load_state_dict(load_checkpoint(path).weights)
    maker = MaskMaker(clip, prompts, default_recipe(clip, "mini"))
    maps, masks = [], []
    for image in (query, photograph):
        maps.append(backbone(torch.from_numpy(image.copy()).permute(2, 0, 1)[None]))
        masks.append(torch.from_numpy(maker.one(image, (6,)).mask(6)).float()[None, None])
    with torch.no_grad():
        logits = model(maps[0], maps[1], masks[0], masks[1], torch.tensor([6])).query_logits
    query_features, support_features = (deep_features(m, backbone.levels) for m in maps)
    free = []  # the vote of trust.py, at its start: half network, half both prototypes, an eighth for the mask
    for features, mask in ((support_features, masks[1]), (query_features, masks[0])):
        near = prototype_probability(features, mask, query_features)  # [1, h, w]
        free.append(torch.nn.functional.interpolate(near[None], mask.shape[-2:], mode="bilinear")[0, 0])
    network, prototypes, mask = (2 * p - 1 for p in (logits.softmax(1)[0, 1], sum(free) / 2, masks[0][0, 0]))
    expected = (1 + (0.5 * network + 0.5 * prototypes + 0.125 * mask) / 1.125) / 2
    np.testing.assert_allclose(found.probability, expected.numpy(), atol=2e-4)
    np.testing.assert_array_equal(found.mask, found.probability >= config.threshold)


def test_the_latest_extended_checkpoint_of_mini_is_the_default(tmp_path):
    import os

    runs = tmp_path / "home" / "runs" / "mini" / "jobs"
    assert latest_checkpoint() is None
    for age, (name, variant) in enumerate([("new-released", "released"), ("new", "extended"), ("old", "extended")]):
        (runs / name).mkdir(parents=True)
        path = trained_stub(runs / name, variant=variant)
        os.utime(path, (10**9 - age, 10**9 - age))
    assert latest_checkpoint() == runs / "new" / "checkpoint.safetensors"
    (runs / "new" / "checkpoint.safetensors").write_bytes(b"damaged")
    assert latest_checkpoint() == runs / "old" / "checkpoint.safetensors"


@pytest.mark.parametrize(
    "change, named",
    [
        (dict(query="nowhere.jpg"), "nowhere.jpg"),
        (dict(support=[]), "--support"),
        (dict(support=["nowhere.jpg"]), "nowhere.jpg"),
        (dict(class_name=" "), "--class"),
        (dict(support_masks=["1,1,90,90", "1,1,90,90"]), "1 support images and 2 masks"),
        (dict(support_masks=["0,0,900,90"]), "0,0,900,90"),
        (dict(coco="svg"), "--coco svg"),
        (dict(clip="ViT-B-16", clip_weights=""), "--clip-weights FILE"),
        (dict(checkpoint="nowhere.safetensors"), "nowhere.safetensors"),
        (dict(threshold=1.5), "threshold"),
        (dict(clip="ViT-Q-99/openai"), "ViT-Q-99"),
    ],
)
def test_faults_are_named_in_one_line(tmp_path, photograph, change, named):
    image = save(photograph, tmp_path / "image.png")
    values = dict(query=image, support=[image], class_name="car", out=tmp_path / "out", progress=False)
    with pytest.raises(TLGError) as caught:
        predict_files(**{**values, **change})
    assert named in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "summary.json").exists()


@pytest.mark.parametrize("mask", ["20,20,300,110", "nowhere.png", "20,20,21,110"])
def test_a_wrong_drawn_mask_is_refused_before_anything_is_loaded(tmp_path, photograph, monkeypatch, mask):
    image = save(photograph, tmp_path / "car.png")
    monkeypatch.setattr(FewShotPredictor, "__init__", lambda *_, **__: pytest.fail("the models were loaded"))
    with pytest.raises(TLGError, match="the mask of support image 2"):
        predict_files(image, [image, image], "", tmp_path / "out", support_masks=["20,20,110,110", mask])


def textless_stub(folder):
    """A network that reads neither a name nor the query's mask, as the one for photographs."""
    return trained_stub(folder, query_mask="none", use_hc=False)


@pytest.mark.parametrize("network", ["none", "stub"])
def test_with_a_drawn_mask_neither_a_name_nor_clip_is_needed(tmp_path, photograph, monkeypatch, network):
    """Another mask of the support is another question; CLIP is never asked."""
    from tlg_lib.data.mini.render import render
    from tlg_lib.masks import clips

    monkeypatch.setattr(clips, "load_clip", lambda *a, **k: pytest.fail("CLIP was loaded"))
    truth = render(0, 6, 0, "trn", 128)[2] == 7
    checkpoint = "none" if network == "none" else textless_stub(tmp_path)
    predictor = FewShotPredictor(checkpoint=checkpoint)
    query = np.ascontiguousarray(photograph[:, ::-1])
    found = predictor.segment(query, predictor.support([photograph], [truth]))
    other = predictor.segment(query, predictor.support([photograph], [~truth]))
    assert not found.query_mask.any() and np.abs(found.probability - other.probability).max() > 0.05
    if network == "none":  # the mirrored support is its own best query
        mirrored = truth[:, ::-1]
        assert (found.mask & mirrored).sum() / (found.mask | mirrored).sum() > 0.5
    with pytest.raises(TLGError, match="--class.*--support-mask"):
        predictor.support([photograph])


def test_a_network_that_reads_the_name_asks_for_it(tmp_path):
    with pytest.raises(TLGError, match="give --class"):
        FewShotPredictor(checkpoint=trained_stub(tmp_path))


def test_the_network_for_photographs_is_the_default_with_drawn_masks(tmp_path, photograph, monkeypatch):
    import tlg_lib.predict

    monkeypatch.setattr(tlg_lib.predict, "PHOTO", textless_stub(tmp_path))
    image = save(photograph, tmp_path / "image.png")
    for name in ("", "car"):
        summary = predict_files(image, [image], name, tmp_path / "out", progress=False, support_masks=["20,20,110,110"])
        assert (
            str(tlg_lib.predict.PHOTO) in summary["method"] and summary["clip"] == "" and summary["support"][0]["drawn"]
        )
    summary = predict_files(image, [image], "car", tmp_path / "out", progress=False)
    assert "training-free" in summary["method"] and summary["clip"].startswith("mini")


def test_drawn_masks_from_a_folder_and_coco_beside_the_masks(tmp_path, photograph):
    from pycocotools import mask as coco_mask

    for folder in ("queries", "supports", "masks"):
        (tmp_path / folder).mkdir()
    for name in ("one", "two"):
        save(photograph, tmp_path / "supports" / f"{name}.jpg")
        save(photograph, tmp_path / "queries" / f"{name}.png")
        drawn = np.zeros((128, 128), np.uint8)
        drawn[30:100, 30:100] = 255
        save(drawn, tmp_path / "masks" / f"{name}.png")
    values = dict(out=tmp_path / "out", progress=False, coco="rle", support_masks=[tmp_path / "masks"])
    summary = predict_files(tmp_path / "queries", [tmp_path / "supports"], "", checkpoint="none", **values)
    assert [entry["mask_share"] for entry in summary["support"]] == [pytest.approx(4900 / 128**2, abs=1e-4)] * 2
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [image["file_name"] for image in found["images"]] == [entry["query"] for entry in summary["queries"]]
    for annotation, entry in zip(found["annotations"], summary["queries"], strict=True):
        decoded = coco_mask.decode(coco_mask.frPyObjects(annotation["segmentation"], 128, 128))
        np.testing.assert_array_equal(decoded * 255, np.array(Image.open(entry["mask"])))
    (tmp_path / "masks" / "two.png").unlink()
    with pytest.raises(TLGError, match="no mask .*two.png"):
        predict_files(tmp_path / "queries", [tmp_path / "supports"], "", **values)


def test_a_second_run_replaces_its_own_results_and_nothing_else(tmp_path, photograph):
    image = save(photograph, tmp_path / "image.png")
    values = dict(progress=False, support_masks=["20,20,110,110"], checkpoint="none")
    for _ in range(2):
        predict_files(image, [image], "", tmp_path / "out", **values)
    mine = tmp_path / "out" / "image_overlay.png"
    save(photograph, mine)
    before = mine.read_bytes()
    with pytest.raises(TLGError, match="image_overlay.png was not written by"):
        predict_files(image, [image], "", tmp_path / "out", **values)
    assert mine.read_bytes() == before
    with pytest.raises(TLGError, match="lies in the query folder"):
        predict_files(tmp_path, [image], "", tmp_path / "out", **values)


def test_several_queries_get_a_sheet_of_supports_and_overlays(tmp_path, photograph):
    blue = np.array([0, 114, 178])
    folder = tmp_path / "queries"
    folder.mkdir()
    for name in ("a.png", "b.png", "日本 语 naïve \x1b.png"):
        save(photograph, folder / name)
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:200])
    values = dict(progress=False, support_masks=["20,20,110,110"], checkpoint="none", threshold=0.01)
    summary = predict_files(folder, [folder / "a.png"], "", tmp_path / "out", **values)
    sheet = np.array(Image.open(summary["sheet"]))
    assert sheet.shape == (202, 5 * 240, 3) and summary["sheet"] == str(tmp_path / "out" / "sheet.png")
    tiles = sheet[:180].reshape(180, 5, 240, 3).swapaxes(0, 1).astype(int)
    whole = lambda tile, colour: np.abs(tile[90, 120] - colour).sum() < np.abs(photograph[64, 64] - colour).sum()  # noqa: E731
    assert all(whole(tile, blue) for tile in tiles[1:4]), "the overlays, all of which are marked in the middle"
    assert (tiles[4] == 255).all(), "nothing for what could not be read"
    assert predict_files(folder, [folder / "a.png"], "", tmp_path / "out", **values) == summary
    assert "sheet" not in predict_files(folder / "a.png", [folder / "a.png"], "", tmp_path / "one", **values)
    save(photograph, tmp_path / "out" / "sheet.png")
    with pytest.raises(TLGError, match="sheet.png was not written by"):
        predict_files(folder, [folder / "a.png"], "", tmp_path / "out", **values)


def test_several_queries_are_files_and_folders_each_photograph_once(tmp_path, photograph):
    folder = tmp_path / "queries"
    folder.mkdir()
    a, b, c = (save(photograph, place) for place in (tmp_path / "a.png", folder / "b.png", folder / "c.png"))
    values = dict(progress=False, support_masks=["20,20,110,110"], checkpoint="none")
    summary = predict_files([a, folder, b], [a], "", tmp_path / "out", **values)
    assert [entry["query"] for entry in summary["queries"]] == [str(path) for path in (a, b, c)]
    assert summary["notes"] == []
    moving = tmp_path / "moving.gif"
    Image.fromarray(photograph).save(moving, save_all=True, append_images=[Image.new("RGB", (128, 128))])
    notes = predict_files(moving, [a], "", tmp_path / "out", **values)["notes"]
    assert notes == ["pictures of several frames, of which the first is used: 1 (moving.gif)"]
    with pytest.raises(TLGError, match="lies in the query folder"):
        predict_files([a, folder], [a], "", folder / "out", **values)


def test_one_name_too_long_to_write_does_not_end_a_batch(tmp_path, photograph, monkeypatch):
    """Names are cut so that they fit; where a system takes fewer bytes still, the others are done."""
    from tlg_lib.runs import photographs

    queries = tmp_path / "queries"
    queries.mkdir()
    for name in ("a.png", "b" * 250 + ".png", "c.png"):
        save(photograph, queries / name)
    support = save(photograph, tmp_path / "s.png")
    values = dict(progress=False, support_masks=["20,20,110,110"], checkpoint="none")
    summary = predict_files(queries, [support], "", tmp_path / "out", **values)
    assert all("mask" in entry for entry in summary["queries"])

    real = photographs.write_picture
    refuse = lambda path, array: real(path.parent / ("b" * 250 + path.name), array)  # noqa: E731
    monkeypatch.setattr(photographs, "write_picture", lambda p, a: (refuse if "~" in p.name else real)(p, a))
    summary = predict_files(queries, [support], "", tmp_path / "out2", **values)
    assert ["error" in entry for entry in summary["queries"]] == [False, True, False]


def test_photographs_in_memory_of_any_kind_mean_the_same(photograph):
    from tlg_lib.predict import as_photograph

    grey = np.array(Image.fromarray(photograph).convert("L"))
    clear = np.dstack([photograph, np.zeros((128, 128), np.uint8)])
    for given, expected in (
        (photograph, photograph),
        (Image.fromarray(photograph), photograph),
        (photograph / 255, photograph),
        ((photograph / 255).astype(np.float32), photograph),
        (grey, np.dstack([grey] * 3)),
        (clear, np.full_like(photograph, 255)),
        (Image.fromarray(clear), np.full_like(photograph, 255)),
    ):
        np.testing.assert_array_equal(as_photograph(given), expected)
    for wrong in (
        torch.zeros(3, 8, 8),
        np.zeros((3, 8, 8), np.uint8),
        photograph * 1.0,
        np.zeros((8, 8, 3), np.int64),
        7,
    ):
        with pytest.raises(TLGError, match="H, W, 3"):
            as_photograph(wrong)


def test_a_broken_single_query_is_refused(tmp_path, photograph):
    image, broken = save(photograph, tmp_path / "image.png"), tmp_path / "broken.jpg"
    broken.write_bytes(b"")
    with pytest.raises(TLGError, match="broken.jpg"):
        predict_files(broken, [image], "car", tmp_path / "out", progress=False)


def test_a_folder_without_images_is_named(tmp_path):
    with pytest.raises(TLGError, match="no image in"):
        images_at(tmp_path)


def test_command_writes_files_and_counts_what_failed(tmp_path, photograph, capsys):
    from tlg_lib.cli import main

    queries = tmp_path / "queries"
    queries.mkdir()
    image = save(photograph, queries / "one.png")
    (queries / "two.png").write_bytes(b"")
    arguments = [
        "predict",
        "--query",
        str(queries),
        "--support",
        str(image),
        str(image),
        "--class",
        "car",
        "--out",
        str(tmp_path / "out"),
    ]
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    printed = capsys.readouterr()
    assert caught.value.code == 3 and "1 of 2 images" in printed.err
    assert "method: training-free fusion" in printed.out and "note:" in printed.out
    share = 100 * json.loads((tmp_path / "out" / "summary.json").read_text())["support"][0]["mask_share"]
    assert f"support {image}: the object is {share:.1f}% of the image" in printed.out.splitlines()
    assert (tmp_path / "out" / "one_mask.png").is_file() and (tmp_path / "out" / "one_overlay.png").is_file()


def test_the_network_for_photographs_finds_people_by_a_box_round_one(tmp_path):
    """On photographs that it was not trained on; what it should find is what GrabCut cuts out of a drawn box."""
    assert (PHOTO.with_suffix(".sha256")).read_text().split() == [sha256_of(PHOTO), PHOTO.name]
    listed = json.loads((notebooks_home() / "photos" / "photos.json").read_text())
    photos = {entry["file"]: read_image(notebooks_home() / "photos" / entry["file"]) for entry in listed}
    boxes = {entry["file"]: entry["box"] for entry in listed}
    predictor = FewShotPredictor(device="cpu")
    assert str(PHOTO) in predictor.method and not predictor.notes
    support = predictor.support([photos["astronaut.jpg"]], [boxes["astronaut.jpg"]])
    for name, least in (("photographer.jpg", 0.7), ("rocket.jpg", None)):
        found = predictor.segment(photos[name], support).mask
        if least is None:
            assert found.mean() < 0.02, "there is nobody in it"
            continue
        truth = drawn_mask(photos[name], boxes[name]).astype(bool)
        assert (found & truth).sum() / (found | truth).sum() > least


def test_the_card_of_the_network_for_photographs_is_what_its_script_writes():
    """From the figures of its own rows, so that neither a mean nor a sentence is changed by hand."""
    made_by = script("data_scripts/train_photo_checkpoint.py")
    card = PHOTO.with_name("MODEL_CARD.md").read_text(encoding="utf-8")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines()]
    rows = [row for row in cells if len(row) == 6 and row[1][:1].isdigit()]
    reached = {fold: {row[0]: float(row[1 + fold]) for row in rows} for fold in range(4)}
    saved = load_checkpoint(PHOTO)
    about = {
        "command": re.search(r"`(python [^`]*)`", card)[1],
        "commit": re.search(r"at commit (\w+)", card)[1],
        "numbers": sum(tensor.numel() for tensor in saved.weights.values()),
    }
    episodes = int(re.search(r"--episodes (\d+)", about["command"])[1])
    config = saved.config.replace(eval_episodes=episodes)
    assert len(rows) == 18 and made_by.card(config, PHOTO, reached, about) == card
