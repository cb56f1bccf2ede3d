"""The ladder's rungs change one thing each, begin at released and end at extended."""

import json
import math

import pandas as pd
import pytest

from tlg_lib.config import make_config
from tlg_lib.errors import TLGError
from tlg_lib.model import check_switches
from tlg_lib.runs.ladder import RUNGS, ladder_rows, ladder_table, run_ladder
from tlg_lib.runs.study import row_config


@pytest.mark.parametrize("preset", ["mini", "pascal-lite", "pascal"])
@pytest.mark.parametrize("supervision", ["pixel", "image"])
@pytest.mark.parametrize("query_mask", ["pseudo", "none"])
def test_rungs_lead_from_released_to_extended_one_change_at_a_time(preset, supervision, query_mask):
    config = make_config(preset, supervision=supervision, query_mask=query_mask)
    rows = ladder_rows(config)
    climb = [row_config(config, row, 1, 2) for row in rows if row.name.startswith("up-")]
    skip = ("variant",) if supervision == "image" else ("variant", "noisy_targets")
    skip += ("mask_dropout",) if query_mask == "none" else ()  # nothing is there to be hidden
    given = dict(supervision=supervision, query_mask=query_mask, fold=1, seed=2)
    released = make_config(preset, variant="released", **given)
    assert climb[0] == released
    assert climb[-1].digest(without=skip) == config.replace(fold=1, seed=2).digest(without=skip)
    for below, above in zip(climb, climb[1:]):
        changed = {k for k, v in above.to_dict().items() if v != below.to_dict()[k]}
        assert any(changed and changed <= set(keys) for _, keys in RUNGS.values()), changed
        check_switches(above)
    for row in rows:
        here = row_config(config, row, 1, 2)
        check_switches(here)
        assert here.query_mask == query_mask
    assert any(row.name == "off-hidden" for row in rows) == (query_mask == "pseudo")


def test_gains_are_paired_by_seed():
    def records(row, values):
        return [
            {"row": row, "label": row, "seed": s, "fold": f, "threshold_from": t, "miou": v + f}
            for s, v in enumerate(values)
            for f in (0, 1)
            for t in ("fixed", "base classes")
        ]

    table = ladder_table(
        records("up-00-released", [10, 20, 30]) + records("up-01-x", [12, 22, 32]) + records("off-x", [11, 21, 31])
    ).set_index("row")
    assert table.miou["up-00-released"] == 20.5 and table.miou_gain["up-01-x"] == 2
    assert table.miou_gain_half["up-01-x"] == pytest.approx(0, abs=1e-9)
    assert table.miou_gain["off-x"] == -1 and table.miou_half["up-01-x"] == pytest.approx(4.302653 * 10 / math.sqrt(3))


@pytest.mark.slow
@pytest.mark.parametrize("seeds, query_mask", [((0,), "none"), ((0, 1), "pseudo")])  # one seed has no interval
def test_ladder_end_to_end(tiny_voc, tmp_path, own_home, jobs_here, seeds, query_mask):
    config = make_config(
        "smoke",
        data=str(tiny_voc),
        dataset="pascal",
        use_hc=False,
        backbone_weights="random",
        width=16,
        widths_4d=(4, 8, 16),
        steps=2,
        query_mask=query_mask,
    )
    top = [r.name for r in ladder_rows(config) if r.name.startswith("up-")][-1]
    some = ["up-00-released", top, "off-use_ht"]  # the top comes by itself
    table = run_ladder(tmp_path / "ladder", config, (0, 3), seeds, workers=1, only=("off-use_ht", "up-00-released"))
    written = json.loads((tmp_path / "ladder" / "ladder.json").read_text())
    assert [r["row"] for r in written["rows"]] == list(table.row) == some
    assert written["seeds"] == list(seeds) and written["environment"]["commit"]
    for row, line in zip(written["rows"], pd.read_csv(tmp_path / "ladder" / "ladder.csv").itertuples()):
        assert row["miou"] == pytest.approx(line.miou) and 0 <= row["miou_chosen"] <= 100
        assert (row["miou_half"] is None) == math.isnan(line.miou_half) == (len(seeds) == 1)
    assert (tmp_path / "ladder" / "ladder.png").stat().st_size > 10_000


def test_an_unknown_rung_is_refused(tmp_path):
    with pytest.raises(TLGError, match="no row 'off-vite': the rungs are up-00-released, "):
        run_ladder(tmp_path, make_config("mini"), only=("off-vite",))
