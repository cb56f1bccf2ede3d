"""How long each widget takes to answer one move of a control, on an episode of a dataset (``tlg bench widgets``)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

LIMIT = 0.3  # seconds in which a widget has to answer on `mini`


def bench_widgets(config, repeats: int = 10) -> dict:
    """Time every control of the five widgets, from setting its value to the finished pictures.

    config: whose data, sizes and switches are used; the network has random weights, which takes the same time as
    trained ones. Returns plain values: "seconds" (control -> median and largest over ``repeats``, after one move
    that is not counted), "limit", and what was measured. Raises TLGError when a widget reports an error.
    """
    import torch

    from ..errors import TLGError

    seconds = {}
    for name, (explorer, move) in _moves(config).items():
        taken = []
        for turn in range(repeats + 1):
            began = time.perf_counter()
            move(turn)
            taken.append(time.perf_counter() - began)
            if explorer.message.value:
                raise TLGError(f"{name}: {explorer.message.value}")
        seconds[name] = {"median": round(statistics.median(taken[1:]), 4), "largest": round(max(taken[1:]), 4)}
    return {
        "seconds": seconds,
        "limit": LIMIT,
        "repeats": repeats,
        "preset": config.preset,
        "image_size": list(config.image_size),
        "backbone": config.backbone,
        "threads": torch.get_num_threads(),
    }


def _moves(config) -> dict[str, tuple[object, Callable[[int], None]]]:
    """For the controls of the five widgets: the widget, and a function that sets another value at every turn."""
    from ..experiment import open_experiment
    from ..look import inside, widgets
    from ..masks.clips import load_clip
    from ..masks.generate import MaskMaker, default_recipe
    from ..masks.prompts import load_prompts
    from ..model import build_model

    experiment = open_experiment(config)
    model = build_model(config, experiment.backbone, experiment.text).to(experiment.device).eval()
    episode = experiment.test_episodes(config.replace(shots=5), 1)[0]
    scene = inside.open_scene(experiment, config, model, episode)
    clip, prompts, data = load_clip(config.clip, config.clip_weights), load_prompts(config.dataset), experiment.data
    recipe = default_recipe(clip, config.dataset)
    maker = MaskMaker(clip, prompts, recipe)
    workshop = inside.MaskWorkshop(maker, data.image(episode.query), (episode.class_id,), episode.class_id)
    truth = data.mask(episode.query, episode.class_id)
    correlation, transport = widgets.CorrelationExplorer(scene), widgets.TransportExplorer(scene)
    text, shots = widgets.TextPriorEditor(scene, clip, prompts), widgets.ShotBuilder(scene, episode.support)
    masks = widgets.MaskExplorer({"query": (workshop, truth)}, recipe)
    for box in shots.choices:
        box.value = True

    def setter(control, values) -> Callable[[int], None]:
        return lambda turn: setattr(control, "value", values[turn % len(values)])

    return {
        "correlation: query position": (correlation, lambda turn: setattr(correlation.query, "row", turn % 2)),
        "transport: asking token": (transport, lambda turn: setattr(transport.tokens, "row", turn % 2)),
        "transport: regularisation": (transport, setter(transport.reg, (0.01, 0.1, 1.0))),
        "text: name": (text, setter(text.name, ("cat", "dog"))),
        "shots: one of five": (shots, setter(shots.choices[-1], (False, True))),
        "masks: background exponent": (masks, setter(masks.alpha, (1.5, 3.0))),
        "masks: refinement": (masks, setter(masks.refine, ("guided", "none"))),
        "masks: affinity": (masks, setter(masks.affinity, ("features", "none"))),
    }


def widgets_table(result: dict) -> str:
    """Markdown: milliseconds per control, and whether each keeps the limit."""
    from .table import markdown

    rows = [
        [
            name,
            f"{1000 * t['median']:.0f}",
            f"{1000 * t['largest']:.0f}",
            "yes" if t["median"] <= result["limit"] else "NO",
        ]
        for name, t in result["seconds"].items()
    ]
    return markdown(["control", "median, ms", "largest, ms", f"within {1000 * result['limit']:.0f} ms"], rows)
