"""Which rows of a dataset a config trains on, tests on and chooses by, and what must hold of them. Needs no torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import Config
from .data.digest import contents, data_digest
from .data.folder import SegmentationFolder, hidden_folds, open_folder
from .data.listing import some
from .data.ready import check_files
from .episodes import Episode, Row, TrainingSampler, images_by_class, test_episodes, wrong_support
from .errors import TLGError
from .machine.paths import data_home, user_path

HELD_OUT = 0.15
SMALL_TEST_LIST = 200  # rows; below this a fold tests on both of its lists and trains on both of the others'


@dataclass
class Protocol:
    """Which rows of a dataset a config trains on, tests on and chooses by; reads no image."""

    data: SegmentationFolder

    def both_splits(self, config: Config) -> bool:
        """Small subsets of Pascal use both lists of each fold, so that no class is starved (said in results)."""
        return config.dataset == "pascal" and len(self.data.rows("val", config.fold)) < SMALL_TEST_LIST

    def training_rows(self, config: Config) -> list[Row]:
        """The base classes' rows that the protocol trains on, those held out for choices among them."""
        keep = config.novel_rows == "keep"
        return self.data.training_rows(config.fold, self.both_splits(config), keep, config.validation_fold)

    def sampler(self, config: Config) -> TrainingSampler:
        rows = self.training_rows(config)
        if self.both_splits(config):
            kept = [row for row in rows if not held_out(row[0])]
            lists = images_by_class(kept).values()
            if any(len(images) > 1 for images in lists):  # else a handful of rows: all are needed
                rows = kept
        return TrainingSampler(rows, batch=config.batch, seed=config.seed, names=self.data.classes)

    def _test_rows(self, config: Config) -> list[Row]:
        """Rows of the classes that are scored: the test fold's, or those of the fold that stands in for it."""
        fold = config.fold if config.validation_fold < 0 else config.validation_fold
        return self.data.test_rows(fold, self.both_splits(config))

    def choice_rows(self, config: Config) -> list[Row]:
        """Rows of base classes that training does not see, for choices: trust, threshold, best epoch.

        The val rows of the other folds without images that also show a test class; where training needs those (small
        subsets of Pascal), the images that it holds out. A folder too small for either gives its base rows as they are.
        """
        both = self.both_splits(config)
        if both:
            rows = [row for row in self.training_rows(config) if held_out(row[0])]
        else:
            folds = hidden_folds(config.fold, config.validation_fold)
            novel = {c + 1 for fold in folds for c in self.data.fold_classes(fold)}
            rows = [r for r in self.data.base_rows(config.fold) if r[1] + 1 not in novel]
            rows = [row for row in rows if novel.isdisjoint(self.data.classes_in(row[0]))]
        enough = {c for c, images in images_by_class(rows).items() if len(images) > 1}
        rows = [row for row in rows if row[1] in enough]
        return rows or self.data.base_rows(config.fold)

    def _episodes(self, config: Config, rows: list[Row], count: int, draw: str = "rows") -> list[Episode]:
        what: dict[str, Any] = dict(dataset=config.dataset, fold=config.fold, shots=config.shots, seed=config.seed)
        return test_episodes(rows, **what, count=count, names=self.data.classes, draw=draw)

    def test_episodes(self, config: Config, count: int | None = None) -> list[Episode]:
        return self._episodes(config, self._test_rows(config), count or config.eval_episodes, config.test_draw)

    def scored_episodes(self, config: Config, control: str = "") -> list[Episode]:
        """The episodes that a score rests on: several shots and controls are scored on ``extra_episodes`` at most."""
        if config.shots > 1 or control:
            config = config.replace(eval_episodes=min(config.eval_episodes, config.extra_episodes))
        return self.wrong_support(config) if control else self.test_episodes(config)

    def digest(self, config: Config) -> str:
        """What the run's inputs are: the rows that are trained on and tested on, and files of weights that it names."""
        found = data_digest(self.data, self.training_rows(config) + self._test_rows(config))
        named = [w for w in (config.backbone_weights, config.clip_weights) if w not in ("imagenet", "random", "")]
        if not named:
            return found
        files = [user_path(name, follow=True) for name in named]
        marks = contents(self.data.root, files)
        return hashlib.sha256("/".join((found, *(marks[file] for file in files))).encode()).hexdigest()[:16]

    def wrong_support(self, config: Config) -> list[Episode]:
        return wrong_support(self.test_episodes(config), self._test_rows(config), config.seed)

    def base_episodes(self, config: Config, count: int) -> list[Episode]:
        """Episodes of ``choice_rows``, evenly spread over them, for choices that must not see test classes."""
        rows = self.choice_rows(config)
        spread = [rows[(i * 7919) % len(rows)] for i in range(len(rows))] if len(rows) % 7919 else rows
        return self._episodes(config, spread, count)


def held_out(image: str) -> bool:
    """Whether a small folder keeps this image from training, for choices: a share HELD_OUT, everywhere the same."""
    return int(hashlib.sha256(f"held/{image}".encode()).hexdigest()[:8], 16) % 1000 < 1000 * HELD_OUT


def check_rows(config: Config, protocol: Protocol, progress: bool = True, right: set[str] | None = None) -> None:
    """Lists are not empty and share no image, classes have enough of them, each has its files, which show the class.

    right: digests of files that were found right; what is among them is not looked at again, what is found is added.
    """
    data, both = protocol.data, protocol.both_splits(config)
    protocol.test_episodes(config, count=1)
    trained, tested = protocol.training_rows(config), data.hidden_rows(config.fold, both, config.validation_fold)
    base = data.base_rows(config.fold)
    kept = tested if both else tested + base  # for scores and choices
    seen = sorted({image for image, _ in trained} & {image for image, _ in kept})
    if seen:
        raise TLGError(
            f"{len(seen)} pictures of the lists in {data.root / 'splits'} are trained on and scored ({some(seen)}): "
            "a score on them would be of what was seen; drop their rows from trn or from val",
            code=3,
        )
    rows = trained + tested + base
    TrainingSampler(rows, batch=1, seed=0, names=data.classes)
    files = data_digest(data, rows) if right is not None else ""
    if right is not None and files in right:
        return
    for note in check_files(data, rows, progress):
        if progress:
            print(f"note: {note}")
    if right is not None:
        right.add(files)


def data_root(config: Config) -> Path:
    """The dataset's folder: the one named, or where `tlg data` puts it (VOC2012, COCO2014, mini)."""
    if config.data:
        return user_path(config.data, follow=True)
    return data_home() / {"mini": "mini", "pascal": "voc", "coco": "coco"}[config.dataset]


def inputs_digest(config: Config) -> str:
    """``Protocol.digest`` of the data as they lie there now, "" where there are none; makes and loads nothing."""
    root = data_root(config)
    if not (root / "JPEGImages").is_dir() or (config.dataset == "mini" and not (root / "manifest.json").is_file()):
        return ""
    return Protocol(open_folder(str(root), config.dataset, config.masks)).digest(config)
