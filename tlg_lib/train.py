"""Training: AdamW on episodes through Lightning Fabric, with checkpoints from which a killed run goes on.

Each step draws its episodes and its dropout from (seed, step), so a resumed run computes the same bits on
the CPU as one that was never stopped. The backbone is frozen, in eval mode and outside the optimizer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from .batches import EpisodeBatch
from .checkpoints import (
    Checkpoint,
    load_checkpoint,
    load_weights,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from .config import Config, config_from_dict
from .episodes import Episode, TrainingSampler, shots_remark
from .errors import TLGError
from .evaluate import THRESHOLDS, count_episodes, judged_by_labels
from .experiment import Experiment
from .inputs import Inputs
from .losses import remedy, total_loss
from .machine.code import code_digest, commit
from .machine.device import check_compile
from .machine.downloads import sha256_of
from .machine.loader import worker_deaths_in_one_line
from .machine.locks import folder_lock
from .machine.loggers import Curves, check_kind
from .machine.paths import read_json, read_sealed, write_json, write_sealed
from .machine.progress import track
from .model import TLG, build_model
from .prototypes import Consensus, base_consensus
from .trust import DEFAULT, agreement, choose, trust_from

LOOK = 20  # steps between two looks at the losses
CHOICE_EPISODES = 200  # held-out base episodes on which share and trust are chosen
# Settings that may change between stopping and resuming: they do not change what is learned.
FREE: tuple[str, ...] = ("data", "masks", "device", "devices", "workers", "cache_features", "clip_weights", "preset")
FREE += ("checkpoint_every", "eval_episodes", "extra_episodes", "eval_batch", "shots", "threshold")


def train(
    config: Config, folder: str | Path, progress: bool = True, inputs: Inputs | None = None, curves: str = ""
) -> dict:
    """Train one network; ``folder`` gets config.json, checkpoint, best-by-test and best-by-base weights, history.

    Returns the summary that is also in ``trained.json``. A folder with a finished run of this config returns
    at once; an unfinished one goes on; one of another config is refused. Raises TLGError (code 6) when the
    loss stops being finite, keeping the last good checkpoint. ``inputs`` are those that the caller has open;
    ``curves``: "csv" or "tensorboard" writes the curves as they grow (machine/loggers.py).
    """
    folder = Path(folder)
    check_kind(curves)
    # Bad input is told here, before a lock, a folder or a process is made.
    check_compile(config.compile)
    experiment = (inputs or Inputs()).open(config, progress)
    with folder_lock(folder):
        if config.devices == 1:
            return _train(_fabric(config), config, folder, experiment, progress, curves)
        try:
            return _fabric(config).launch(_train_share, config.to_dict(), str(folder), progress, curves)
        except ProcessRaisedException as error:
            reason = str(error).strip().splitlines()[-1].rpartition("TLGError: ")[2]
            raise TLGError(f"one of {config.devices} training processes stopped: {reason}", code=6) from error
        except ProcessExitedException as error:
            raise TLGError(
                f"one of {config.devices} training processes is gone ({error.signal_name or error.exit_code}): killed, "
                "most likely for want of memory, or run by a script whose calls do not stand below `if __name__ == "
                '"__main__":`; the same call goes on from the last checkpoint',
                code=1,
            ) from None


def _train_share(fabric, settings: dict, folder: str, progress: bool, curves: str) -> dict:
    """One of several processes: plain values travel to it, and it opens its own inputs."""
    config = config_from_dict(settings)
    experiment = Inputs().open(config, progress and fabric.is_global_zero)
    return _train(fabric, config, Path(folder), experiment, progress, curves)


def _fabric(config: Config):
    from lightning_fabric import Fabric

    from .machine.device import pick_device

    kind = pick_device(config.device).type
    strategy: Any = "auto"
    if config.devices > 1:
        from lightning_fabric.strategies import DDPStrategy

        # As released, a third of the parameters never get a gradient: DDP has to look for them.
        strategy = DDPStrategy(start_method="spawn", find_unused_parameters="train_hetero" in config.as_released)
    return Fabric(accelerator=kind, devices=config.devices, precision=config.precision, strategy=strategy)


@dataclass
class _Run:
    """What the steps of one training share, in each of its processes."""

    fabric: Any
    config: Config
    folder: Path
    experiment: Experiment
    model: TLG
    wrapped: Any  # the model as Fabric runs it
    optimizer: Any
    about: dict[str, Any]  # what a checkpoint says beside its tensors
    consensus: Consensus | None
    curves: Curves | None

    def __post_init__(self) -> None:
        self.sampler, self.make = self.experiment.sampler(self.config), self.experiment.batches(self.config)
        self.first = self.fabric.is_global_zero  # the process that scores and writes


def _train(fabric, config: Config, folder: Path, experiment: Experiment, progress: bool, curves: str) -> dict:
    digest, path = experiment.digest(config), folder / "checkpoint.safetensors"
    draws = curves and fabric.is_global_zero
    start_curves = partial(Curves, folder, curves, partial(learning_rate, config))  # which clears older ones
    done = finished_training(folder, config, digest)
    if done is not None:
        if draws:
            start_curves().write(done)
        return done
    if fabric.is_global_zero:
        _put_aside_other_code(folder)
    fabric.barrier()
    fabric.seed_everything(config.seed, verbose=False)
    model = build_model(config, experiment.backbone, experiment.text).to(experiment.device)
    optimizer = make_optimizer(model, config)
    about = {"step": 0, "history": [], "losses": [], "data": digest, "best": {}, "seconds": 0.0}
    about |= {"code": code_digest(), "commit": commit()}
    if path.is_file():
        about = _go_on(path, config, about, model, optimizer)
    elif fabric.is_global_zero:
        _refuse_foreign(folder / "config.json")
        write_json(folder / "config.json", config.to_dict())
    consensus = _consensus(config, experiment, model, progress and fabric.is_global_zero)
    wrapped, optimizer = fabric.setup(torch.compile(model) if config.compile else model, optimizer)
    drawn = start_curves() if draws else None
    _loop(_Run(fabric, config, folder, experiment, model, wrapped, optimizer, about, consensus, drawn), progress)
    weights = sha256_of(path) if path.is_file() else ""  # none after 0 steps
    summary = {**about, "step": config.steps, "weights": weights, "config": config.to_dict()}
    if fabric.is_global_zero:
        write_sealed(folder / "trained.json", summary)
    return summary


def _go_on(path: Path, config: Config, new: dict, model: TLG, optimizer: torch.optim.Optimizer) -> dict:
    """Model and optimizer as the checkpoint has them; returns its ``about``. ``new`` is that of a fresh run."""
    saved = load_checkpoint(path, config, free=FREE)
    if not new.keys() <= saved.about.keys() or not saved.optimizer and saved.about["step"]:
        raise TLGError(
            f"{path} holds weights without the state of a training (a copy of best_*.safetensors?), which cannot "
            "go on from it: move it away, or train in a new folder",
            code=3,
        )
    if saved.about["data"] != new["data"]:
        named = config.backbone_weights not in ("imagenet", "random") or config.clip_weights
        also = ", or the weights that it names," if named else ""
        raise TLGError(
            f"the data of {path.parent}{also} changed since the run began: restore it, or train in a new folder", code=3
        )
    load_weights(model, saved.weights)
    restore_optimizer(optimizer, saved.optimizer)
    return saved.about


def _consensus(config: Config, experiment: Experiment, model: TLG, progress: bool) -> Consensus | None:
    """What the base classes' images agree on, where targets, choices or a new network's ``background`` need it.

    Sets the latter; a network that goes on has its background from the checkpoint.
    """
    new = hasattr(model, "background") and not model.background.any()
    if not (new or config.supervision == "image"):  # with pseudo masks as targets, they judge the epochs too
        return None
    consensus = base_consensus(config, experiment, progress)
    if new:
        model.background.copy_(consensus.general)
    return consensus


def finished_training(folder: Path, config: Config, digest: str) -> dict | None:
    """The summary of a finished run with these settings and data by this code, or None where its weights are others."""
    try:
        summary = read_sealed(folder / "trained.json")
        same = all(summary["config"][k] == v for k, v in config.to_dict().items() if k not in FREE)
        here = (digest, code_digest(), sha256_of(folder / "checkpoint.safetensors"))
        return summary if same and (summary["data"], summary["code"], summary["weights"]) == here else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _refuse_foreign(path: Path) -> None:
    """A config.json that no training wrote is of another program's folder."""
    try:
        config_from_dict(read_json(path))
    except FileNotFoundError:
        pass
    except (OSError, ValueError, TypeError, TLGError):
        raise TLGError(f"{path} is there already and is no config of a training: choose another --out") from None


def _put_aside_other_code(folder: Path) -> None:
    """What other code of the library trained here goes to a folder of its own, and training starts again."""
    path = folder / "checkpoint.safetensors"
    if not path.is_file():
        return
    about = load_checkpoint(path).about
    if "data" not in about or about.get("code") == code_digest():
        return
    aside = folder / f"of-other-code-{str(about.get('code', 'unknown'))[:16]}"
    while aside.exists():
        aside = aside.with_name(f"{aside.name}-again")
    print(
        f"the library's code changed since {folder} was trained (commit {about.get('commit', 'unknown')}): what is "
        f"there moves to {aside.name}, and training starts again",
        flush=True,
    )
    aside.mkdir()
    for name in ("trained.json", "config.json", "best_test.safetensors", "best_base.safetensors", path.name):
        if (folder / name).is_file():
            (folder / name).replace(aside / name)  # the checkpoint last: killed in between, the next call goes on


def make_optimizer(model: torch.nn.Module, config: Config) -> torch.optim.AdamW:
    """AdamW over what learns; fused, one kernel for all parameters, where PyTorch has it (from 2.4 on for CPUs too)."""
    learnable = [p for p in model.parameters() if p.requires_grad]
    fused = learnable[0].device.type in ("cpu", "cuda")
    return torch.optim.AdamW(learnable, lr=config.lr, weight_decay=config.weight_decay, fused=fused)


def learning_rate(config: Config, step: int) -> float:
    """Constant as released, or a short warm-up and a cosine to zero."""
    if config.schedule == "constant":
        return config.lr
    warm = max(1, min(50, config.steps // 10))
    if step < warm:
        return config.lr * (step + 1) / warm
    return 0.5 * config.lr * (1 + math.cos(math.pi * (step - warm) / max(1, config.steps - warm)))


class _Watch:
    """Losses since the last look, on the device: a look waits for a GPU, so there is one for many steps.

    What is not finite is told by its own step, before anything is kept of the weights that came after it.
    """

    def __init__(self, folder: Path, sampler: TrainingSampler, losses: list[float]):
        self.folder, self.sampler, self.losses = folder, sampler, losses
        self.waiting: list[tuple[int, Tensor]] = []

    def add(self, step: int, values: Tensor, finite: Tensor) -> None:
        """values [accumulate]: losses of the parts, which add up to the step's; finite: whether all gradients are."""
        self.waiting.append((step, torch.cat((values, finite.to(values)[None]))))
        if len(self.waiting) == LOOK:
            self.look()

    def look(self) -> None:
        """Bring the losses over. Raises TLGError (code 6) for the first step that is not finite."""
        if not self.waiting:
            return
        table = torch.stack([row for _, row in self.waiting]).tolist()
        for (step, _), (*values, finite) in zip(self.waiting, table):
            if not all(map(math.isfinite, values)):
                raise _diverged("the loss", self.folder, step, self.sampler)
            if not finite:
                raise _diverged("a gradient", self.folder, step, self.sampler)
            self.losses.append(round(sum(values), 6))
        self.waiting.clear()


class _Shares:
    """The episodes of this process's part of each step's batch, from a step on: ``accumulate`` groups a step."""

    def __init__(self, config: Config, sampler: TrainingSampler, begin: int, rank: int = 0, world: int = 1):
        parts = world * config.accumulate
        if config.batch % parts:
            raise TLGError(f"batch={config.batch} must be a multiple of devices x accumulate = {parts}")
        self.sampler, self.begin = sampler, begin
        self.first, self.size = rank * config.accumulate, config.batch // parts
        self.accumulate, self.steps = config.accumulate, config.steps - begin

    def __len__(self) -> int:
        return self.steps * self.accumulate

    def __getitem__(self, index: int) -> list[Episode]:
        step, part = divmod(index, self.accumulate)
        start = (self.first + part) * self.size
        return self.sampler.batch(self.begin + step)[start : start + self.size]


@worker_deaths_in_one_line()
def _loop(run: _Run, progress: bool) -> None:
    config, about = run.config, run.about
    shares = _Shares(config, run.sampler, about["step"], run.fabric.global_rank, run.fabric.world_size)
    began, spent = time.perf_counter(), about["seconds"]
    label = f"train {config.variant} {config.supervision} fold {config.fold} seed {config.seed}"
    show, watch = progress and run.first, _Watch(run.folder, run.sampler, about["losses"])
    steps = track(range(about["step"], config.steps), config.steps, label, "steps", show, start=about["step"])
    run.model.train()
    with closing(run.make.each(shares, training=True)) as batches:
        for step in steps:
            for group in run.optimizer.param_groups:
                group["lr"] = learning_rate(config, step)
            watch.add(step, *_step(run, batches, step))
            about["step"] = step + 1
            last = step + 1 == config.steps
            ends_epoch = (step + 1) % config.epoch_steps == 0 or last
            saves = ends_epoch or (step + 1) % config.checkpoint_every == 0
            if saves:
                watch.look()
            if ends_epoch and run.first and config.trusted_vote:
                _choose_trust(run, CHOICE_EPISODES if last else config.epoch_episodes)
            if ends_epoch and run.first and config.epoch_episodes:
                _end_epoch(run)
            if saves:
                about["seconds"] = round(spent + time.perf_counter() - began, 2)
            if saves and run.first:
                now = Checkpoint(config, run.model.state_dict(), optimizer_tensors(run.optimizer), about)
                save_checkpoint(run.folder / "checkpoint.safetensors", now)
                if run.curves:
                    run.curves.write(about)


def _step(run: _Run, batches: Iterator[EpisodeBatch], step: int) -> tuple[Tensor, Tensor]:
    """One optimizer step on this process's share of the batch, in ``accumulate`` parts.

    Returns the parts' losses [accumulate], which add up to the step's mean, and whether all gradients are finite, both
    on the device: nothing here waits for it.
    """
    config, fabric, model = run.config, run.fabric, run.model
    # The flip is a function of the step, as the whole batch takes part; dropout is one of the process too.
    torch.manual_seed((config.seed * 1_000_003 + step) % 2**31)
    flipped = config.flip and torch.rand(()) < 0.5
    if fabric.global_rank:
        torch.manual_seed((config.seed * 1_000_003 + step + 15_485_863 * fabric.global_rank) % 2**31)
    values = []
    run.optimizer.zero_grad(set_to_none=True)
    for part in range(config.accumulate):
        batch = next(batches)
        if run.consensus is not None and remedy(config) == "consensus":
            batch.query_target = run.consensus.targets(batch, model.levels)
        batch = batch.flipped() if flipped else batch
        seen, theirs = hide_masks(batch.query_mask, config), batch.support_mask[:, 0]
        with fabric.no_backward_sync(run.wrapped, enabled=part < config.accumulate - 1):
            output = run.wrapped(batch.query, batch.support[0], seen, theirs, batch.class_ids, config.support_loss > 0)
            loss = total_loss(output, batch, config, list(model.parameters())) / config.accumulate
            value = loss.detach()
            values.append(fabric.all_reduce(value, reduce_op="mean") if fabric.world_size > 1 else value)
            fabric.backward(loss)
    # A gradient scaler (16-mixed) meets infinite gradients by design and passes over such steps.
    finite = torch.isfinite(values[0]) if config.precision == "16-mixed" else _finite_gradients(model)
    run.optimizer.step()
    return torch.stack(values), finite


def _finite_gradients(model: TLG) -> Tensor:
    """Whether all gradients are finite, on their device."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return torch.isfinite(torch.stack(torch._foreach_norm(gradients))).all()


def _diverged(what: str, folder: Path, step: int, sampler: TrainingSampler) -> TLGError:
    queries = [episode.query for episode in sampler.batch(step)]
    write_json(folder / "failed_batch.json", {"step": step, "queries": queries})
    return TLGError(
        f"{what} is not finite at step {step} (queries {', '.join(queries)}): the last good "
        f"checkpoint is kept in {folder}; lower lr or use precision=32-true",
        code=6,
    )


def hide_masks(masks: Tensor, config: Config) -> Tensor:
    """Replace some query masks by "unknown" (0.5), so that the network cannot live by copying them."""
    if not config.mask_dropout:
        return masks
    hidden = torch.rand(len(masks), 1, 1, 1).to(masks.device, non_blocking=True) < config.mask_dropout
    return torch.where(hidden, torch.full_like(masks, 0.5), masks)


def _choose_trust(run: _Run, count: int) -> None:
    """Set the model's share and trust (trust.py) by ``count`` episodes of base images held out from training.

    With ``supervision="image"`` no drawn mask is read: the share stays, and the trust follows from how well masks and
    prototypes agree.
    """
    if not count:
        return
    config, model = run.config, run.model
    episodes = run.experiment.base_episodes(config.replace(shots=1), min(count, config.eval_episodes))
    model.eval()
    if run.consensus is not None and config.supervision == "image":
        chosen = DEFAULT[0], trust_from(agreement(run.consensus, episodes, run.make, model.levels))
    else:
        chosen = choose(model, episodes, run.make)
    model.train()
    model.trust.copy_(torch.tensor(chosen))


def _end_epoch(run: _Run) -> None:
    """Score test and base classes on a few episodes; keep the best weights by each, named as such.

    The base classes' best is judged as training is: by drawn masks, or by pseudo masks put right.
    """
    config, model, about, data = run.config, run.model, run.about, run.experiment.data
    model.eval()
    one, count, losses = config.replace(shots=1), config.epoch_episodes, about["losses"][-config.epoch_steps :]
    row = {"step": about["step"], "epoch": len(about["history"]) + 1, "loss": round(sum(losses) / len(losses), 6)}
    hidden = len(set(data.fold_classes(config.fold)))
    judged: Any = run.make
    if run.consensus is not None and config.supervision == "image":
        judged = judged_by_labels(run.make, run.consensus, model.levels)
    thresholds: tuple[float, ...] = (config.threshold, *(() if config.trusted_vote else THRESHOLDS))
    for name, episodes, make, classes in (  # base classes first: they choose a threshold for the test classes
        ("base", run.experiment.base_episodes(one, count), judged, len(data.classes) - hidden),
        ("test", run.experiment.test_episodes(one, count), run.make, hidden),
    ):
        counts = count_episodes(model.predict, episodes, make, thresholds, config.eval_batch)
        row[name] = round(counts.scores(0).miou, 4)
        if name == "test":
            row["test_chosen"] = round(counts.scores(1).miou, 4)
        thresholds = (config.threshold, counts.best_threshold())
        row[f"{name}_remarks"] = "; ".join(counts.remarks(0, classes) + shots_remark(episodes))
        if row[name] > about["best"].get(name, {}).get("miou", -1):
            about["best"][name] = {"epoch": row["epoch"], "step": row["step"], "miou": row[name]}
            best = Checkpoint(config, model.state_dict(), {}, {"step": row["step"]})
            save_checkpoint(run.folder / f"best_{name}.safetensors", best)
    about["history"].append(row)
    model.train()


def load_trained(
    folder: str | Path, which: str = "checkpoint", progress: bool = True, inputs: Inputs | None = None
) -> tuple[TLG, Config]:
    """The network of a training folder in eval mode; which: "checkpoint" (last), "best_test" or "best_base".

    inputs: those that the caller has open, so that they are not opened again.
    """
    saved = load_checkpoint(Path(folder) / f"{which}.safetensors")
    experiment = (inputs or Inputs()).open(saved.config, progress)
    model = build_model(saved.config, experiment.backbone, experiment.text).to(experiment.device)
    load_weights(model, saved.weights)
    return model.eval(), saved.config
