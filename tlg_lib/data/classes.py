"""Class names and folds of Pascal-5i, COCO-20i and the mini benchmark (docs/design.md, 2).

Class numbers are 0-based everywhere in the code. Label maps store class + 1 (0 is background), and split
lists write class + 1 with two digits.
"""

from __future__ import annotations

from ..errors import TLGError

FOLDS = 4

# fmt: off
PASCAL_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle",
    "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person",
    "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # in the order of the VOC devkit, which numbers them from 1

COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard",
    "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
)  # the 80 "thing" categories in the order of their COCO ids, numbered without the gaps
# fmt: on

# COCO's own category ids run to 90; these ten never got an annotation.
_UNUSED_COCO_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
COCO_CATEGORY_IDS = tuple(i for i in range(1, 91) if i not in _UNUSED_COCO_IDS)  # [80], class -> COCO id

_NAMES = {"mini": PASCAL_CLASSES, "pascal": PASCAL_CLASSES, "coco": COCO_CLASSES}


def class_names(dataset: str) -> tuple[str, ...]:
    """Names of the dataset's classes by class number. Raises TLGError for an unknown dataset."""
    if dataset not in _NAMES:
        raise TLGError(f"unknown dataset '{dataset}': choose one of {', '.join(_NAMES)}")
    return _NAMES[dataset]


def fold_classes(dataset: str, fold: int) -> tuple[int, ...]:
    """The classes that fold 0..3 holds out for testing, ascending.

    Pascal-5i and mini: 5f..5f+4. COCO-20i: f, f+4, f+8, ... Raises TLGError when the fold is out of range.
    """
    count = len(class_names(dataset))
    if isinstance(fold, bool) or not isinstance(fold, int) or not 0 <= fold < FOLDS:
        raise TLGError(f"fold={fold}: must be between 0 and {FOLDS - 1}")
    if dataset == "coco":
        return tuple(range(fold, count, FOLDS))
    size = count // FOLDS
    return tuple(range(fold * size, (fold + 1) * size))


def fold_of(dataset: str, class_id: int) -> int:
    """The fold that holds out this class; inverse of ``fold_classes``."""
    count = len(class_names(dataset))
    if not 0 <= class_id < count:
        raise TLGError(f"class {class_id} of {dataset}: must be between 0 and {count - 1}")
    return class_id % FOLDS if dataset == "coco" else class_id // (count // FOLDS)
