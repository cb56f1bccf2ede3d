"""The episode sampler, tested on lists without images."""

import hashlib
from collections import Counter

import pytest

from tlg_lib.episodes import (
    Episode,
    TrainingSampler,
    _choose,
    load_episodes,
    save_episodes,
    test_episodes,
    wrong_support,
)
from tlg_lib.errors import TLGError

ROWS = [(f"img{i:03d}", i % 3) for i in range(30)] + [("img000", 1)]
WANT = dict(dataset="mini", fold=0, seed=0)


def test_queries_follow_the_list_and_wrap_round():
    episodes = test_episodes(ROWS, shots=1, count=70, **WANT)
    assert [(e.query, e.class_id) for e in episodes] == [ROWS[i % len(ROWS)] for i in range(70)]


def test_supports_share_the_class_and_never_hold_the_query_or_a_repeat():
    images = {c: {i for i, k in ROWS if k == c} for c in range(3)}
    for e in test_episodes(ROWS, shots=5, count=200, **WANT):
        assert len(set(e.support)) == 5 and set(e.support) <= images[e.class_id] - {e.query}


def test_too_few_images_are_repeated_only_after_all_were_used():
    rows = [("a", 0), ("b", 0), ("c", 0)]
    for e in test_episodes(rows, shots=5, count=6, **WANT):
        assert sorted(Counter(e.support).values()) == [2, 3]


def test_one_shot_is_the_first_of_five():
    one, five = (test_episodes(ROWS, shots=k, count=50, **WANT) for k in (1, 5))
    assert all(a.support[0] == b.support[0] for a, b in zip(one, five))


def by_copying(key, images, count, without):
    """The same draw on a copy of the list, taken apart image by image."""
    pool, chosen = [], []
    for position in range(count):
        pool = pool or [i for i in images if i != without] or list(images)
        number = int.from_bytes(hashlib.sha256(f"{key}/{position}".encode()).digest()[:8], "big")
        chosen.append(pool.pop(number % len(pool)))
    return tuple(chosen)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 40])
def test_drawing_without_a_copy_draws_the_same(size):
    images = [f"i{n:02d}" for n in range(size)]
    for without in (*images[:3], images[-1], "", "zzz", "i00x"):
        for count in (1, 2, 5, 60):
            found = _choose(f"k{without}", images, count, without=without)
            assert found == by_copying(f"k{without}", images, count, without)


def test_list_is_the_same_everywhere():
    """A digest written down once: a change of it is a change of every published figure."""
    text = repr([(e.query, e.support, e.class_id) for e in test_episodes(ROWS, shots=2, count=100, **WANT)])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "57b7fd90a39f0c91"


def test_seed_and_fold_change_the_supports():
    base = test_episodes(ROWS, shots=1, count=50, dataset="mini", fold=0, seed=0)
    assert base != test_episodes(ROWS, shots=1, count=50, dataset="mini", fold=0, seed=1)
    assert base != test_episodes(ROWS, shots=1, count=50, dataset="mini", fold=1, seed=0)


def test_classes_are_drawn_evenly_where_the_protocol_says_so():
    """A list of 2,692 rows of one class and 10 to 200 of others, as COCO's folds are: a tenth of the episodes each,
    within four standard deviations of a binomial; every image of a small class comes up; supports as ever."""
    sizes = (2692, 10, 30, 200, 50, 90, 40, 25, 70, 15)
    rows = [(f"c{c}_{i}", c) for c, size in enumerate(sizes) for i in range(size)]
    episodes = test_episodes(rows, shots=1, count=5000, draw="classes", dataset="coco", fold=0, seed=0)
    counts = Counter(e.class_id for e in episodes)
    assert all(abs(counts[c] - 500) < 4 * (5000 * 0.1 * 0.9) ** 0.5 for c in range(10)), counts
    assert len({e.query for e in episodes if e.class_id == 1}) == 10
    assert all(e.query.startswith(f"c{e.class_id}_") and e.query not in e.support for e in episodes)
    by_rows = Counter(e.class_id for e in test_episodes(rows, shots=1, count=5000, dataset="coco", fold=0, seed=0))
    assert by_rows[0] > 3000 and by_rows[1] < 40


def test_supports_are_drawn_evenly():
    """Chi-square of 9 candidates over 3,000 draws stays below its 99.9% point (26.1 for 8 degrees)."""
    rows = [(f"i{k}", 0) for k in range(10)]
    drawn = Counter(e.support[0] for e in test_episodes(rows, shots=1, count=30_000, **WANT) if e.query == "i0")
    expected = sum(drawn.values()) / 9
    assert set(drawn) == {f"i{k}" for k in range(1, 10)}
    assert sum((n - expected) ** 2 / expected for n in drawn.values()) < 26.1


def test_errors_name_the_class():
    with pytest.raises(TLGError, match="class 'dog' has 1 image"):
        test_episodes([("a", 0), ("b", 0), ("c", 1)], shots=1, count=3, names=("cat", "dog"), **WANT)
    with pytest.raises(TLGError, match="no test rows"):
        test_episodes([], shots=1, count=3, **WANT)


def test_wrong_support_keeps_the_query_and_changes_the_class():
    episodes = test_episodes(ROWS, shots=2, count=60, **WANT)
    for right, wrong in zip(episodes, wrong_support(episodes, ROWS, seed=0)):
        assert (wrong.query, wrong.class_id) == (right.query, right.class_id)
        assert wrong.support_class != right.class_id and wrong.query not in wrong.support
        assert all((s, wrong.support_class) in ROWS for s in wrong.support)


def test_training_batches_need_no_state_and_cover_every_row_once_per_pass():
    sampler, again = (TrainingSampler(ROWS, batch=4, seed=3) for _ in range(2))
    ordered = [sampler.batch(step) for step in range(31)]
    assert [again.batch(step) for step in reversed(range(31))] == ordered[::-1]
    queries = [(e.query, e.class_id) for batch in ordered for e in batch][: 4 * len(ROWS)]
    assert Counter(queries) == Counter(ROWS * 4)


def test_saved_lists_come_back_and_broken_ones_are_named(tmp_path):
    episodes = [Episode("q", ("a", "b"), 3), Episode("r", ("c",), 1, support_class=2)]
    save_episodes(tmp_path / "e.json", episodes)
    assert load_episodes(tmp_path / "e.json") == episodes
    for text in (
        "[",
        "{}",
        '[{"query": 1}]',
        '[{"query": "a", "support": [], "class_id": 0}]',
        '[{"query": "a", "support": ["b"], "class_id": 99}]',
        '[{"query": "a", "support": ["b"]}]',
    ):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(TLGError, match="bad.json"):
            load_episodes(tmp_path / "bad.json")
