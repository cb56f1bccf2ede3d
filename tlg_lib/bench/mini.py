"""The mini benchmark's step and episode, features from the cache against the backbone in the loop; loading by part."""

from __future__ import annotations

import itertools
import multiprocessing
import statistics
import time

import torch

from .measure import clock, median_ratio, paired_seconds
from .table import markdown, seconds

BATCHES = 8  # different training batches, in turn


def bench_mini(config, repeats: int, progress: bool = True) -> dict:
    """Seconds of a training step and of a batch of evaluation episodes, with and without cached features.

    config: a preset whose data is there. Also: seconds to make a batch in this process (``loading``: what a
    worker could hide), and what starting one worker process costs. Every round draws the next of a few batches.
    """
    from ..evaluate import count_episodes, network_predictor
    from ..experiment import open_experiment
    from ..losses import total_loss
    from ..model import build_model
    from ..train import make_optimizer

    steps, episodes = {}, {}
    loading: dict[str, list[float]] = {}
    for mode in ("on", "off"):
        setting = config.replace(cache_features=mode)
        experiment = open_experiment(setting, progress)
        make, sampler = experiment.batches(setting), experiment.sampler(setting)
        model = build_model(setting, experiment.backbone, experiment.text).to(experiment.device)
        optimizer = make_optimizer(model, setting)
        test = experiment.test_episodes(setting, setting.eval_batch)
        counter = itertools.cycle(range(BATCHES))
        for i in range(BATCHES):  # masks stay in memory from the first pass over the data on
            make(sampler.batch(i), training=True)

        def step(
            setting=setting,
            make=make,
            sampler=sampler,
            model=model,
            optimizer=optimizer,
            counter=counter,
            waits=loading.setdefault(mode, []),  # noqa: B008
        ):
            model.train()
            began = time.perf_counter()
            batch = make(sampler.batch(next(counter)), training=True)
            waits.append(clock(str(experiment.device)) - began)  # noqa: B023
            output = model(
                batch.query,
                batch.support[0],
                batch.query_mask,
                batch.support_mask[:, 0],
                batch.class_ids,
                setting.support_loss > 0,
            )
            optimizer.zero_grad(set_to_none=True)
            total_loss(output, batch, setting, list(model.parameters())).backward()
            optimizer.step()

        steps[mode] = step
        episodes[mode] = lambda model=model, test=test, make=make: count_episodes(
            network_predictor(model.eval()), test, make, batch_size=len(test)
        )
    result = {
        "preset": config.preset,
        "batch": config.batch,
        "eval_batch": config.eval_batch,
        "seconds": {},
        "ratio": {},
    }
    for name, runs in (("training step", steps), ("evaluation batch", episodes)):
        for run in runs.values():
            run()
        seconds = paired_seconds(runs, repeats, config.device if config.device != "auto" else str(experiment.device))
        result["seconds"][name] = {mode: s["wall"] for mode, s in seconds.items()}
        result["ratio"][name] = {k: median_ratio(seconds["off"][k], seconds["on"][k]) for k in ("wall", "cpu")}
    result["loading"] = {mode: statistics.median(waits[1:]) for mode, waits in loading.items()}
    result["worker_start"] = worker_start()
    return result


def worker_start() -> float:
    """Seconds until a worker process that has imported this library answers."""
    began = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
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
