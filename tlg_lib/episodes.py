"""Episodes: one query and K supports of one class, drawn from split rows by hashing, so everywhere the same.

A row is ``(image_id, class_id)``. The draw uses SHA-256 of a text, not a random generator: the list depends
on (dataset, fold, seed) and the position alone, on every machine and in every version of Python and NumPy.
The supports for K shots are the first K of those for more shots, so 1-shot and 5-shot can be compared in pairs.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from .data.splits import Row
from .errors import TLGError
from .machine.paths import write_json


@dataclass(frozen=True)
class Episode:
    """One task: segment class ``class_id`` (0-based) in ``query``, given ``support`` images of that class.

    ``support_class`` differs from ``class_id`` only in the wrong-support control (docs/design.md, 3.3).
    """

    query: str
    support: Annotated[tuple[str, ...], Field(min_length=1)]
    class_id: Annotated[int, Field(ge=0)]
    support_class: int = -1

    def __post_init__(self):
        if self.support_class < 0:
            object.__setattr__(self, "support_class", self.class_id)


def _draw(key: str, below: int) -> int:
    """A number in 0..below-1 from the hash of ``key``; 64 bits make the modulo bias vanish."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % below


def _choose(key: str, images: list[str], count: int, without: str = "") -> tuple[str, ...]:
    """``count`` of the sorted ``images`` but ``without``, by a partial Fisher-Yates shuffle; repeats when none is left.

    Nothing is copied: a class of COCO has tens of thousands of images, and every episode draws from one.
    """
    at = bisect_left(images, without)
    left_out = [at] if images[at : at + 1] == [without] and len(images) > 1 else []
    taken, chosen = list(left_out), []
    for position in range(count):
        if len(taken) == len(images):
            taken = list(left_out)
        index = _draw(f"{key}/{position}", len(images) - len(taken))
        for gone in taken:  # ascending: the place among those that are left becomes the place among all
            index += gone <= index
        insort(taken, index)
        chosen.append(images[index])
    return tuple(chosen)


def images_by_class(rows: list[Row]) -> dict[int, list[str]]:
    """Sorted image ids of each class that the rows name."""
    found: dict[int, set[str]] = defaultdict(set)
    for image, class_id in rows:
        found[class_id].add(image)
    return {class_id: sorted(images) for class_id, images in sorted(found.items())}


def _need(by_class: dict[int, list[str]], names: tuple[str, ...] | None) -> None:
    for class_id, images in by_class.items():
        if len(images) < 2:
            name = names[class_id] if names else f"number {class_id}"
            raise TLGError(
                f"class '{name}' has {len(images)} image in the list: an episode needs a query and another image; "
                "add images of the class or drop its row",
                code=3,
            )


def test_episodes(
    rows: list[Row],
    *,
    dataset: str,
    fold: int,
    shots: int,
    seed: int,
    count: int,
    names: tuple[str, ...] | None = None,
    draw: str = "rows",
) -> list[Episode]:
    """The test list (docs/design.md, 2): ``count`` episodes, their supports never the query.

    draw: "rows" -- query i is row i, wrapping round (Pascal-5i); "classes" -- a class drawn evenly from those of the
    rows, then one of its images, as HSNet and the authors do on COCO-20i, where the order of the rows would give one
    class ten episodes and another thousands. Raises TLGError when there are no rows, or naming the class that has a
    single image.
    """
    if not rows:
        raise TLGError(f"fold {fold} of {dataset} has no test rows: check the split lists (tlg data verify)", code=3)
    by_class = images_by_class(rows)
    _need(by_class, names)
    episodes = []
    for i in range(count):
        key = f"{dataset}/{fold}/{seed}/{i}"
        if draw == "classes":
            class_id = sorted(by_class)[_draw(f"{key}/class", len(by_class))]
            image = by_class[class_id][_draw(f"{key}/query", len(by_class[class_id]))]
        else:
            image, class_id = rows[i % len(rows)]
        episodes.append(Episode(image, _choose(key, by_class[class_id], shots, without=image), class_id))
    return episodes


def shots_remark(episodes: list[Episode]) -> list[str]:
    """What a score over these episodes must say: supports drawn twice, where a class has fewer images than shots."""
    twice = sum(len(set(e.support)) < len(e.support) for e in episodes)
    return [f"{twice} of {len(episodes)} episodes repeat a support: fewer images than shots"] if twice else []


test_episodes.__test__ = False  # type: ignore[attr-defined]  # pytest: a function of the library, not a test


def wrong_support(episodes: list[Episode], rows: list[Row], seed: int) -> list[Episode]:
    """The same queries with supports of another class of the list: how much does the support matter?"""
    by_class = images_by_class(rows)
    if len(by_class) < 2:
        raise TLGError("the wrong-support control needs at least two test classes in the fold", code=3)
    changed = []
    for i, episode in enumerate(episodes):
        classes = [c for c in by_class if c != episode.class_id]
        other = classes[_draw(f"wrong/{seed}/{i}/class", len(classes))]
        chosen = _choose(f"wrong/{seed}/{i}", by_class[other], len(episode.support), without=episode.query)
        changed.append(Episode(episode.query, chosen, episode.class_id, support_class=other))
    return changed


class TrainingSampler:
    """Training episodes by step: ``sampler.batch(step)`` needs no state, so a resumed run draws the same.

    Every row is the query once per pass in a shuffled order; the support is another image of its class.
    """

    def __init__(self, rows: list[Row], *, batch: int, seed: int, shots: int = 1, names: tuple[str, ...] | None = None):
        if not rows:
            raise TLGError("no training rows: check the split lists of the other folds (tlg data verify)", code=3)
        self.by_class = images_by_class(rows)
        lonely = {c for c, images in self.by_class.items() if len(images) < 2}
        self.rows = [row for row in rows if row[1] not in lonely]
        if not self.rows:
            _need(self.by_class, names)
        self.batch_size, self.seed, self.shots = batch, seed, shots
        self._order: tuple[int, np.ndarray] | None = None

    def _row(self, position: int) -> Row:
        turn, index = divmod(position, len(self.rows))
        if self._order is None or self._order[0] != turn:
            keys = [hashlib.sha256(f"train/{self.seed}/{turn}/{i}".encode()).digest() for i in range(len(self.rows))]
            self._order = (turn, np.array(sorted(range(len(keys)), key=keys.__getitem__)))
        return self.rows[self._order[1][index]]

    def batch(self, step: int) -> list[Episode]:
        """The episodes of optimizer step ``step`` (from 0)."""
        episodes = []
        for position in range(step * self.batch_size, (step + 1) * self.batch_size):
            image, class_id = self._row(position)
            key = f"train/{self.seed}/{position}"
            episodes.append(Episode(image, _choose(key, self.by_class[class_id], self.shots, without=image), class_id))
        return episodes


def save_episodes(path: str | Path, episodes: list[Episode]) -> None:
    """Write the list as JSON: query, support, class_id and, in the control, support_class."""
    write_json(path, [asdict(episode) for episode in episodes])


def load_episodes(path: str | Path, classes: int = 80) -> list[Episode]:
    """Read and check a saved list; raises TLGError naming the file and the entry."""
    try:
        episodes = TypeAdapter(list[Episode]).validate_json(Path(path).read_bytes(), strict=True)
        wrong: Any = next((i for i, e in enumerate(episodes) if max(e.class_id, e.support_class) >= classes), None)
    except OSError as error:
        raise TLGError(f"cannot read episodes {path}: {error}", code=3) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if not first["loc"]:
            raise TLGError(f"{path} is no list of episodes: {first['msg']}", code=3) from None
        wrong = first["loc"][0]
    if wrong is not None:
        entry = f"entry {wrong} is not an episode (query, support, class_id 0..{classes - 1})"
        raise TLGError(f"{path}: {entry}: make the list again by scoring again", code=3)
    return episodes
