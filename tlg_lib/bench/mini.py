"""The mini benchmark's step and episode, features from the cache against the backbone in the loop; loading by part."""

from __future__ import annotations

import itertools
import statistics
import time

import torch

from ..machine.device import pick_device
from ..machine.parallel import APART
from .measure import clock, median_ratio, paired_seconds
from .table import markdown, seconds

BATCHES = 8  # different training batches, in turn


def bench_mini(config, repeats: int, progress: bool = True) -> dict:
    """Seconds of a training step and of a batch of evaluation episodes, with and without cached features.

    config: a preset whose data is there. Also: seconds to make a batch in this process (``loading``: what a
    worker could hide), and what starting one worker process costs. Every round draws the next of a few batches.
    """
    steps, episodes, loading = {}, {}, {}
    for mode in ("on", "off"):
        steps[mode], episodes[mode], loading[mode] = _runs(config.replace(cache_features=mode), progress)
    result = {k: getattr(config, k) for k in ("preset", "batch", "eval_batch")} | {"seconds": {}, "ratio": {}}
    device = pick_device(config.device).type
    for name, runs in (("training step", steps), ("evaluation batch", episodes)):
        for run in runs.values():
            run()
        taken = paired_seconds(runs, repeats, device)
        result["seconds"][name] = {mode: s["wall"] for mode, s in taken.items()}
        result["ratio"][name] = {k: median_ratio(taken["off"][k], taken["on"][k]) for k in ("wall", "cpu")}
    result["loading"] = {mode: statistics.median(waits[1:]) for mode, waits in loading.items()}
    result["worker_start"] = worker_start()
    return result


def _runs(config, progress: bool):
    """(a training step, a batch of evaluation episodes, the list of seconds that making the steps' batches took)."""
    from ..evaluate import count_episodes
    from ..experiment import open_experiment
    from ..losses import total_loss
    from ..model import build_model
    from ..train import make_optimizer

    experiment = open_experiment(config, progress)
    make, sampler = experiment.batches(config), experiment.sampler(config)
    model = build_model(config, experiment.backbone, experiment.text).to(experiment.device)
    optimizer = make_optimizer(model, config)
    test = experiment.test_episodes(config, config.eval_batch)
    counter, waits = itertools.cycle(range(BATCHES)), []
    for i in range(BATCHES):  # masks stay in memory from the first pass over the data on
        make(sampler.batch(i), training=True)

    def step():
        model.train()
        began = time.perf_counter()
        batch = make(sampler.batch(next(counter)), training=True)
        waits.append(clock(str(experiment.device)) - began)
        both = config.support_loss > 0
        masks = (batch.query_mask, batch.support_mask[:, 0])
        output = model(batch.query, batch.support[0], *masks, batch.class_ids, both)
        optimizer.zero_grad(set_to_none=True)
        total_loss(output, batch, config, list(model.parameters())).backward()
        optimizer.step()

    def scored():
        count_episodes(model.eval().predict, test, make, batch_size=len(test))

    return step, scored, waits


def worker_start() -> float:
    """Seconds until a worker process that has imported this library answers."""
    began = time.perf_counter()
    with APART.Pool(1) as pool:
        pool.apply(_import_torch)
    return time.perf_counter() - began


def _import_torch() -> str:
    return torch.__version__


def mini_table(result: dict) -> str:
    """The result of ``bench_mini`` as a table."""
    rows = [
        [
            name,
            seconds(statistics.median(s["on"])),
            seconds(statistics.median(s["off"])),
            f"{result['ratio'][name]['wall']:.2f} / {result['ratio'][name]['cpu']:.2f}",
        ]
        for name, s in result["seconds"].items()
    ]
    rows.append(["making a batch", seconds(result["loading"]["on"]), seconds(result["loading"]["off"]), ""])
    head = f"### {result['preset']}: batch {result['batch']}, evaluation batch {result['eval_batch']}"
    table = markdown(["seconds, median", "features cached", "backbone in the loop", "x (wall / CPU)"], rows)
    return f"{head}\n\n{table}\n\nStarting one worker process: {result['worker_start']:.1f} s"
