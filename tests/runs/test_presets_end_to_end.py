"""The presets' whole code path on tiny generated folders of the real layouts, with random weights.

Nothing here says how good a network is: backbone and CLIP hold random numbers, and training is one step. What
is shown is that `pascal`, `coco` and `pascal-lite` run from a dataset folder to scores, on the right classes.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlg_lib.config import make_config
from tlg_lib.data.classes import class_names, fold_classes
from tlg_lib.data.coco import make_coco
from tlg_lib.data.folder import open_folder
from tlg_lib.inputs import Inputs
from tlg_lib.runs.study import evaluate_trained, evaluate_training_free
from tlg_lib.train import train

from conftest import make_tiny_coco, make_tiny_voc

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_home")]

TINY = dict(
    steps=1,
    batch=2,
    eval_episodes=4,
    epoch_episodes=2,
    epoch_steps=1,
    checkpoint_every=1,
    eval_batch=2,
    workers=0,
    image_size=(64, 64),
    widths_4d=(4, 8, 16),
    width=16,
    device="cpu",
)


@pytest.fixture(scope="session")
def random_clip(tmp_path_factory):
    """A small open_clip ViT with random weights as a file: {} to pass to make_config."""
    import open_clip
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("clip") / "random.safetensors"
    save_file(open_clip.create_model("ViT-S-32-alt").state_dict(), path)
    return {"clip": "ViT-S-32-alt", "clip_weights": str(path), "backbone_weights": "random"}


def run(config, folder):
    """Train, score, and check that the scores speak of this fold's classes and repeat to the bit."""
    inputs = Inputs()
    summary = train(config, folder, False, inputs)
    assert summary["step"] == config.steps and all(np.isfinite(summary["losses"]))
    records = evaluate_trained(config.to_dict(), str(folder), "tiny", "random weights", (1, 2), True, inputs=inputs)
    own = {class_names(config.dataset)[c] for c in fold_classes(config.dataset, config.fold)}
    assert {(r["shots"], r["control"], r["epoch"]) for r in records} >= {
        (1, "", "last"),
        (2, "", "last"),
        (1, "wrong support", "last"),
        (1, "", "best by test classes"),
    }
    for record in records:
        assert set(record["per_class"]) <= own and 0 <= record["miou"] <= 100 and 0 <= record["fb_iou"] <= 100
    assert train(config, folder, False, inputs)["losses"] == summary["losses"]
    return records, inputs


@pytest.mark.parametrize("backbone, variant", [("resnet50", "released"), ("vgg16", "corrected")])
def test_pascal(tiny_voc, random_clip, tmp_path, backbone, variant):
    run(
        make_config("pascal", variant=variant, data=str(tiny_voc), backbone=backbone, fold=1, **TINY, **random_clip),
        tmp_path / "run",
    )


def test_pascal_from_image_labels_alone(tiny_voc, random_clip, tmp_path):
    config = make_config("pascal", data=str(tiny_voc), supervision="image", fold=3, **TINY, **random_clip)
    _, inputs = run(config, tmp_path / "run")
    free = evaluate_training_free(config.to_dict(), str(tmp_path / "free"), (1,), inputs)
    masks = [r for r in free if "mask" in r["label"]]
    # The pseudo masks of the tiny folder are its true masks but for 255, so this row must come out perfect.
    assert any(r["miou"] == pytest.approx(100, abs=1.5) for r in masks), [(r["label"], r["miou"]) for r in free]


def test_coco(random_clip, tmp_path):
    """From COCO's own files through `make_coco` and lists by rule to scores."""
    target = tmp_path / "coco"
    make_coco(target, [make_tiny_coco(tmp_path / "src", per_side=160, size=(30, 40))], progress=False)
    (target / "PseudoMasks").mkdir()
    for path in (target / "SegmentationClassAug").iterdir():  # the authors' COCO form: one PNG per image
        label = np.array(Image.open(path))
        Image.fromarray(np.where(label == 255, 0, label)).save(target / "PseudoMasks" / path.name)
    config = make_config("coco", data=str(target), fold=2, **TINY, **random_clip)
    records, _ = run(config, tmp_path / "run")
    # Rows go by image, so by rows fold 2 would begin with classes 2, 6, 10 and 14; here classes are drawn.
    assert all(set(r["per_class"]) != {"car", "train", "fire hydrant", "bird"} for r in records)


def test_pascal_lite_without_lists(tmp_path):
    """The laptop preset, with its real ImageNet weights, on a folder that has no lists of any kind."""
    root = make_tiny_voc(tmp_path / "voc", lists=False)
    config = make_config("pascal-lite", data=str(root), fold=0, **TINY, use_hc=False)
    run(config, tmp_path / "run")
    assert (root / "splits/val/fold0.txt").is_file()


def _shared(*parts) -> Path:
    return Path(os.environ.get("TLG_SHARED", Path(__file__).resolve().parents[3] / "shared")).joinpath(*parts)


@pytest.mark.skipif(not _shared("real", "voc632").is_dir(), reason="needs ../shared/real/voc632 (real photographs)")
@pytest.mark.parametrize("lists", [True, False])
def test_pascal_lite_on_real_photographs(tmp_path, lists):
    """With the published rows and without any list; the pseudo masks there are surrogates."""
    root = tmp_path / "voc"
    root.mkdir()
    for name in ("JPEGImages", "SegmentationClassAug", "PseudoMasks") + (("splits",) if lists else ()):
        (root / name).symlink_to(_shared("real", "voc632", name))
    config = make_config("pascal-lite", data=str(root), fold=0, cache_features="off", use_hc=False, **TINY)
    data = open_folder(str(root), "pascal", "")
    novel = set(range(1, 6))
    assert all(novel.isdisjoint(np.unique(data.label(image))) for image, _ in data.training_rows(0)[:40])
    assert not data.missing_masks([row for f in range(4) for s in ("trn", "val") for row in data.rows(s, f)])
    run(config, tmp_path / "run")
