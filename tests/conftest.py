"""Small datasets that several test files share, drawn by NumPy: shapes, not photographs."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlg_lib.data.classes import COCO_CATEGORY_IDS, COCO_CLASSES
from tlg_lib.data.splits import build_splits

# A network that trains in a second, whatever the data.
SMALL = dict(image_size=64, width=8, widths_4d=(4, 4, 8), token_count=4, backbone_weights="random", device="cpu")


def script(path):
    """The module of a script that is in no package; path: from the checkout's root."""
    file = Path(__file__).resolve().parents[1] / path
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def own_home(tmp_path, monkeypatch):
    """Data and caches of this test go to a folder of its own."""
    monkeypatch.setenv("TLG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def jobs_here(monkeypatch):
    """The jobs of studies run in this process, one after the other: a worker process loads PyTorch for seconds."""
    from tlg_lib.inputs import Inputs
    from tlg_lib.runs import jobs, study

    def in_turn(todo, workers, start=None, about=()):
        yield from ((i, function(*arguments)) for i, (_, function, arguments) in enumerate(todo))

    monkeypatch.setattr(jobs, "run_jobs", in_turn)
    monkeypatch.setattr(study, "_WORKER", Inputs())


def _scene(rng, size, values):
    """A noisy picture uint8 [H, W, 3] and its label map uint8 [H, W] with one ellipse per value."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    image = rng.integers(0, 90, (height, width, 3))
    label = np.zeros(size, np.uint8)
    for i, value in enumerate(values):
        cx, cy = width * (i + 0.5) / len(values), height * rng.uniform(0.4, 0.6)
        radius = ((x - cx) / (0.4 * width / len(values))) ** 2 + ((y - cy) / (0.3 * height)) ** 2
        label[(radius > 0.85) & (radius <= 1)] = 255
        label[radius <= 0.85] = value
        image[radius <= 1] += (np.array([value * 53, value * 97, value * 29]) % 160).astype(image.dtype)
    return image.clip(0, 255).astype(np.uint8), label


def make_tiny_voc(root, classes=20, per_class=4, size=(60, 80), seed=0, lists=True):
    """A folder in VOC layout: each image shows one class and, every second time, the next fold's as well."""
    rng = np.random.default_rng(seed)
    for name in ("JPEGImages", "SegmentationClassAug", "PseudoMasks", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    ids = {"train": [], "val": []}
    for c in range(classes):
        for k in range(per_class):
            values = [c + 1] + ([(c + 5) % classes + 1] if k % 2 else [])
            image, label = _scene(rng, size, values)
            name = f"2007_{c:02d}{k:02d}"
            Image.fromarray(image).save(root / "JPEGImages" / f"{name}.jpg", quality=90)
            Image.fromarray(label).save(root / "SegmentationClassAug" / f"{name}.png")
            for value in values:
                mask = np.where(label == value, value, 0).astype(np.uint8)
                Image.fromarray(mask).save(root / "PseudoMasks" / f"{name}--{value - 1}.png")
            ids["val" if k < per_class // 2 else "train"].append(name)
    if lists:
        for side, names in ids.items():
            (root / "ImageSets" / "Segmentation" / f"{side}.txt").write_text("\n".join(names) + "\n")
    else:
        (root / "ImageSets" / "Segmentation").rmdir()
        (root / "ImageSets").rmdir()
    return root


def make_tiny_coco(root, per_side=80, size=(60, 80), seed=0):
    """COCO 2014 as it is distributed: {train,val}2014/*.jpg and annotations/instances_*.json.

    Image i of a side shows class i % 80 as a polygon; every fourth also a crowd region of class 0 (RLE).
    """
    rng = np.random.default_rng(seed)
    (root / "annotations").mkdir(parents=True)
    height, width = size
    for side in ("train2014", "val2014"):
        (root / side).mkdir()
        images, annotations = [], []
        for i in range(per_side):
            number, c = 100 + i, i % 80
            name = f"COCO_{side}_{number:012d}.jpg"
            Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(root / side / name)
            images.append({"id": number, "file_name": name, "height": height, "width": width})
            x0, y0 = int(rng.integers(5, 15)), int(rng.integers(5, 15))
            polygon = [x0, y0, x0 + 50, y0, x0 + 50, y0 + 40, x0, y0 + 40]
            annotations.append(
                {
                    "id": 1000 + i,
                    "image_id": number,
                    "category_id": COCO_CATEGORY_IDS[c],
                    "iscrowd": 0,
                    "area": 2000,
                    "bbox": [x0, y0, 50, 40],
                    "segmentation": [polygon],
                }
            )
            if i % 4 == 0:
                counts = [height * (width - 4), height * 4]  # column-major: the last four columns
                annotations.append(
                    {
                        "id": 5000 + i,
                        "image_id": number,
                        "category_id": 1,
                        "iscrowd": 1,
                        "area": 240,
                        "bbox": [width - 4, 0, 4, height],
                        "segmentation": {"size": [height, width], "counts": counts},
                    }
                )
        categories = [{"id": n, "name": name} for n, name in zip(COCO_CATEGORY_IDS, COCO_CLASSES)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{side}.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="session")
def tiny_voc(tmp_path_factory):
    """80 images of 60 x 80 in VOC layout with lists and pseudo masks; read it, do not change it."""
    root = make_tiny_voc(tmp_path_factory.mktemp("voc") / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLG_HOME", str(tmp_path_factory.mktemp("home")))
        build_splits(root, "pascal")
    return root


@pytest.fixture(scope="session")
def tiny_coco(tmp_path_factory):
    """COCO's own layout with 80 images of 60 x 80 a side; read it, do not change it."""
    return make_tiny_coco(tmp_path_factory.mktemp("coco") / "tiny")
