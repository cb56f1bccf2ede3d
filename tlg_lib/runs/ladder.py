"""The ladder: ``released`` by way of ``corrected`` to ``extended``, one switch at a time; then each alone off.

Climbing shows what the sum is made of, in one order; switching off shows what each part is worth where all the
others are there. A part that gains on the way up and costs nothing when taken away is not needed. Every rung is
trained for the same steps on the same episodes.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..config import SWITCHES, VARIANT_SWITCHES, Config, make_config
from ..errors import TLGError
from .records import mean_interval, refuse_unknown_rows, seed_means, write_table
from .study import Row, Study, items

# Rungs in the order of docs/design.md's table (3.2), what is ours last: label, and the settings that change together.
RUNGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "hetero": ("heterogeneous path trained", ("train_hetero",)),
    "transport": ("differentiable, scaled transport", ("transport", "transport_reg")),
    "tokens": ("token grid", ("tokens", "token_count")),
    "key-value": ("separate keys and values", ("key_value",)),
    "across": ("second attention across branches", ("second_attention",)),
    "residual": ("query's own residual", ("query_residual",)),
    "grid": ("correlation map on the own grid", ("correlation_grid",)),
    "masked": ("support features masked", ("mask_support",)),
    "text": ("learned text maps", ("text_maps",)),
    "border": ("255 ignored", ("ignore_255",)),
    "reductions": ("reductions per level", ("reductions",)),  # here `corrected` is reached
    "pool": ("other image pooled before correlating", ("correlation_pool",)),
    "skip": ("scaled skip around HT", ("token_skip",)),
    "dice": ("soft Dice", ("dice",)),
    "noise": ("targets put right by class prototypes", ("noisy_targets",)),
    "hidden": ("query masks hidden in training", ("mask_dropout",)),
    "one-way": ("query direction only", ("support_loss",)),
    "prior": ("prototype maps to the decoder", ("prototype_prior",)),
    "vote": ("vote of mask, prototypes and network", ("trusted_vote",)),
}
PARTS = {"use_ht": "without HT", "use_hc": "without HC"}  # switched off from `extended` alone


def ladder_rows(config: Config) -> tuple[Row, ...]:
    """Rows of the ladder for this config's preset and supervision; rungs that change nothing are left out."""
    top = config.replace(variant="extended").to_dict()
    bottom = make_config(config.preset, variant="released").to_dict()
    fixed = {"supervision": config.supervision, "variant": "released"}
    rungs = {
        name: (label, keys)
        for name, (label, keys) in RUNGS.items()
        if any(top[k] != bottom[k] for k in keys)
        and (name != "noise" or config.supervision == "image")
        and (name != "hidden" or config.query_mask != "none")
    }
    missing = sorted(
        k
        for k in bottom
        if top[k] != bottom[k]
        and k in (*VARIANT_SWITCHES["released"], *SWITCHES)
        and k not in ("noisy_targets", "mask_dropout")
        and not any(k in keys for _, keys in rungs.values())
    )
    if missing:
        raise TLGError(f"the ladder has no rung for {', '.join(missing)}: add one to tlg_lib/runs/ladder.py")
    rows, climbed = [Row("up-00-released", "released", items(fixed))], dict(fixed)
    for number, (name, (label, keys)) in enumerate(rungs.items(), 1):
        climbed |= {k: top[k] for k in keys}
        rows.append(Row(f"up-{number:02d}-{name}", f"+ {label}", items(climbed)))
    for name, (label, keys) in rungs.items():
        rows.append(Row(f"off-{name}", f"without: {label}", items({k: bottom[k] for k in keys})))
    for switch, label in PARTS.items():
        rows.append(Row(f"off-{switch}", label, items({switch: False})))
    return tuple(rows)


def run_ladder(
    folder: str | Path, config: Config, folds=(0, 1, 2, 3), seeds=(0, 1, 2), workers: int = 0, only=()
) -> pd.DataFrame:
    """Train and score every rung, or ``only`` those of these names and the top, with which the others are compared.

    Writes ladder.csv, ladder.json and ladder.png, returns the table. Where rungs are left out on the way up, a gain
    is that of all changes since the last rung that is there. Raises TLGError naming a rung that there is not.
    """
    folder = Path(folder)
    config = config.replace(epoch_episodes=0)  # the last epoch is scored; nobody looks at curves of hundreds of runs
    rungs = ladder_rows(config)
    refuse_unknown_rows(only, [rung.name for rung in rungs], "rungs")
    top = [rung for rung in rungs if rung.name.startswith("up-")][-1]
    rungs = tuple(rung for rung in rungs if not only or rung.name in only or rung is top)
    study = Study(folder, config, folds, seeds, rungs, shots=(1,))
    study.train(workers)
    names = {rung.name for rung in rungs}  # a network alone, before the vote, is no rung
    table = ladder_table([r for r in study.evaluate(workers) if r["epoch"] == "last" and r["row"] in names])
    write_table(folder, "ladder", table, config, folds=list(folds), seeds=list(seeds))
    from ..look.figures import save_figure

    save_figure(ladder_figure(table, config), folder / "ladder.png", "mIoU of every rung with 95% intervals")
    return table


def ladder_table(records: list[dict]) -> pd.DataFrame:
    """One line per rung: mean over folds then seeds at 0.5 and at the base-class threshold, half width of the
    95% interval over seeds (NaN with one seed), and the paired difference to the rung it is compared with."""
    frame = pd.DataFrame(records)
    lines, means, folds = [], {}, set(frame.fold)
    for row in dict.fromkeys(frame.row):
        line = {"row": row, "label": frame[frame.row == row].label.iloc[0]}
        for source, name in (("fixed", "miou"), ("base classes", "miou_chosen")):
            chosen = frame[(frame.row == row) & (frame.threshold_from == source)]
            means[row, name] = seed_means(chosen, folds=folds)
            line[name], line[f"{name}_half"] = _interval(means[row, name])
        lines.append(line)
    names = [line["row"] for line in lines]
    for line in lines:
        against = _compared_with(line["row"], names)
        for name in ("miou", "miou_chosen"):
            difference = means[line["row"], name] - means[against, name]
            line[f"{name}_gain"], line[f"{name}_gain_half"] = _interval(difference)
    return pd.DataFrame(lines)


def _compared_with(row: str, names: list[str]) -> str:
    """A rung with the one below it; a switched-off part with the top of the ladder."""
    climb = [name for name in names if name.startswith("up-")]
    if row.startswith("up-"):
        return climb[max(0, climb.index(row) - 1)]
    return climb[-1]


def _interval(values: pd.Series) -> tuple[float, float]:
    interval = mean_interval(values)
    return interval.mean, interval.half_width


def ladder_figure(table: pd.DataFrame, config: Config):
    """Two panels: climbing from released, and each part switched off from extended."""
    import matplotlib.pyplot as plt

    climb, off = (table[table.row.str.startswith(prefix)] for prefix in ("up-", "off-"))
    figure, axes = plt.subplots(1, 2, figsize=(12.5, 0.34 * max(len(climb), len(off)) + 1.7), layout="constrained")
    for axis, part, title in (
        (axes[0], climb, "climbing from released, each keeps those above"),
        (axes[1], off, "extended, each switch alone off"),
    ):
        y = range(len(part))
        axis.errorbar(part.miou, y, xerr=part.miou_half.fillna(0), fmt="o", color="#0072B2", label="threshold 0.5")
        axis.errorbar(
            part.miou_chosen,
            y,
            xerr=part.miou_chosen_half.fillna(0),
            fmt="s",
            color="#D55E00",
            label="threshold from base classes",
            alpha=0.8,
        )
        axis.set_yticks(list(y), part.label)
        axis.invert_yaxis()
        axis.set_xlabel("mIoU of unseen classes, percent")
        low, high = axis.get_xlim()
        axis.set_xlim(max(low, -2), min(high, 100))  # an interval over few seeds may leave what an IoU can be
        axis.set_title(title, fontsize=10, loc="left")
        axis.grid(axis="x", alpha=0.3)
    top = climb.iloc[-1]
    axes[1].axvline(top.miou, color="#0072B2", lw=1, ls=":")
    axes[1].axvline(top.miou_chosen, color="#D55E00", lw=1, ls=":")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
    hidden = ", no query mask" * (config.query_mask == "none")
    figure.suptitle(
        f"{config.preset}, supervision {config.supervision}{hidden}, {config.steps} steps, "
        f"{config.eval_episodes} episodes a fold",
        fontsize=11,
    )
    return figure
