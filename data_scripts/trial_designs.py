"""HT and HC by other designs, each beside a control of its cost: is there a way in which they earn it?

python data_scripts/trial_designs.py runs/designs --folds 0,1,2,3 --seeds 0,1,2 [--test] [--set query_mask=none]

Every design is the default network with one map more at the decoder's entrance; training, votes and scores are the
library's. Without --test another fold's classes stand in for the test classes, so that designs are chosen without
them. Writes designs.csv and designs.json; docs/claims.md has the tables.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tlg_lib.train as training
from tlg_lib import model, prototypes
from tlg_lib.aggregation import resize
from tlg_lib.commands.options import cells, config_from_options
from tlg_lib.config import Config
from tlg_lib.decoder import Decoder
from tlg_lib.episodes import Episode
from tlg_lib.inputs import Inputs
from tlg_lib.losses import cross_entropy, total_loss
from tlg_lib.machine.parallel import run_jobs
from tlg_lib.runs.records import score_table, shown_table, write_table
from tlg_lib.runs.study import evaluate_trained

SCALE = 30.0  # of cosines before the softmax over all names and surroundings
RIDGE = 0.1  # weight of the penalty beside a mean covariance of 1 / dimensions
SHARES = (0.35, 0.45, 0.2)  # column mass of object, surroundings and dustbin
REG, ROUNDS, BIN_COST = 0.1, 30, 0.5  # of the relaxed transport
KEYS = 32  # channels of queries and keys
LOSS = 0.5  # weight of the moved share's own loss


# --- where a map more comes from


class TextMap(nn.Module):
    """HC: the softmax share of the class's name among all names and surroundings, at every position."""

    def __init__(self, network: model.TLG, words: str, seen: str):
        super().__init__()
        text = network.text.name, network.text.background
        if words == "random":
            generator = torch.Generator().manual_seed(0)
            text = tuple(F.normalize(torch.randn(t.shape, generator=generator), dim=1) for t in text)
        self.register_buffer("words", torch.cat(text))  # [2 * classes, D]
        self.seen, self.levels = seen, network.levels
        if seen == "ridge":
            width = network.background.numel()
            self.register_buffer("project", torch.zeros(width, self.words.shape[1]))  # set by fit_ridge

    def forward(self, this: list[Tensor], other: list[Tensor], mask: Tensor, class_ids: Tensor) -> Tensor:
        if self.seen == "clip":
            features = this[-1]  # [B, D, h, w], of the CLIP's own image tower
        else:
            deep = prototypes.deep_features(this, self.levels)
            features = F.normalize(torch.einsum("bchw,cd->bdhw", deep, self.project), dim=1)
        logits = SCALE * torch.einsum("bdhw,nd->bnhw", features, self.words)
        return logits.softmax(1)[torch.arange(len(class_ids)), class_ids][:, None]  # [B, 1, h, w]


class MovedShare(nn.Module):
    """HT: every query position gets the share of object among the support positions that answer it."""

    def __init__(self, network: model.TLG, plan: str):
        super().__init__()
        self.levels, self.plan, width = network.levels, plan, network.background.numel()
        self.ask, self.answer = nn.Conv2d(width, KEYS, 1, bias=False), nn.Conv2d(width, KEYS, 1, bias=False)
        self.share: Tensor | None = None  # of the last forward pass, for its own loss

    def forward(self, this: list[Tensor], other: list[Tensor], mask: Tensor, class_ids: Tensor) -> Tensor:
        asking, answering = (prototypes.deep_features(maps, self.levels) for maps in (this, other))
        size = answering.shape[-2:]
        inside = resize(mask, size).flatten(2)[:, 0]  # [B, M]
        q, k = (F.normalize(f(x).flatten(2), dim=1) for f, x in ((self.ask, asking), (self.answer, answering)))
        alike = torch.einsum("bcn,bcm->bnm", q, k)
        if self.plan == "relaxed":
            weights = relaxed(1 - alike, column_mass(inside))
        elif self.plan == "balanced":
            weights = balanced(1 - alike)
        else:
            weights = torch.softmax(alike / REG + column_mass(inside).clamp_min(1e-9).log()[:, None], dim=-1)
        moved = torch.einsum("bnm,bm->bn", weights, inside) / weights.sum(-1).clamp_min(1e-9)
        self.share = moved.unflatten(1, asking.shape[-2:])[:, None]  # [B, 1, h, w]
        return self.share


def column_mass(inside: Tensor) -> Tensor:
    """Mass of every support position [B, M]: object and surroundings have SHARES together, whatever their sizes."""
    return sum(
        share * part / part.sum(1, keepdim=True).clamp_min(1e-6) for share, part in zip(SHARES, (inside, 1 - inside))
    )


def relaxed(cost: Tensor, columns: Tensor) -> Tensor:
    """Plan [B, N, M] of uniform rows and these columns; a dustbin of BIN_COST takes what nothing suits."""
    batch, n, _ = cost.shape
    cost = torch.cat((cost, cost.new_full((batch, n, 1), BIN_COST)), dim=2)
    columns = torch.cat((columns, columns.new_full((batch, 1), SHARES[2])), dim=1)
    return scaled(cost, columns / columns.sum(1, keepdim=True))[..., :-1]


def balanced(cost: Tensor) -> Tensor:
    """Plan [B, N, M] of uniform rows and columns."""
    return scaled(cost, torch.full_like(cost[:, 0], 1 / cost.shape[2]))


def scaled(cost: Tensor, columns: Tensor) -> Tensor:
    """Sinkhorn's scaling in logarithms, ROUNDS rounds, with the gradient of all of them."""
    kernel, rows = -cost / REG, -torch.log(torch.tensor(float(cost.shape[1])))
    wanted, g = columns.clamp_min(1e-9).log(), torch.zeros_like(columns)
    for _ in range(ROUNDS):
        f = rows - torch.logsumexp(kernel + g[:, None], 2)
        g = wanted - torch.logsumexp(kernel + f[:, :, None], 1)
    return (kernel + f[:, :, None] + g[:, None]).exp()


# --- the network with it


class Designed(model.TLG):
    """The default network whose decoder gets one map more: ``part(query, support, support_mask, class_ids)``."""

    def set_part(self, part: nn.Module, gate: bool = False) -> None:
        """gate: the map multiplies the heterogeneous path, as HC's maps do, in place of entering the decoder."""
        self.part, self.gate = part, gate
        if gate:
            self.gain = nn.Parameter(torch.zeros(self.config.width, 1, 1))
        else:
            priors = 2 * prototypes.PER_LEVEL + self.with_mask + 1
            self.decoder = Decoder(self.config.width, mask=self.with_mask, prior=priors)

    def forward(self, query, support, query_mask, support_mask, class_ids, need_support=True):
        repeat = partial(model.per_shot, batch=len(support_mask))
        this = [repeat(m) for m in query]
        self.extra = self.part(this, support, support_mask, repeat(class_ids))
        return super().forward(query, support, query_mask, support_mask, class_ids, need_support)

    def _aggregate(self, *arguments):
        out = super()._aggregate(*arguments)
        if self.gate:
            out["query"] = out["query"] * (1 + self.gain * resize(self.extra, out["query"].shape[-2:]))
        return out

    def _prior(self, features, masks, branch):
        prior = super()._prior(features, masks, branch)
        return prior if self.gate else torch.cat((prior, resize(self.extra, prior.shape[-2:])), 1)


# design: how its part is made from the network, and whether it gates
DESIGNS = {
    "as it is": None,
    "HC: CLIP's own features": (partial(TextMap, words="names", seen="clip"), False),
    "HC control: the same, random words": (partial(TextMap, words="random", seen="clip"), False),
    "HC: backbone features by a ridge": (partial(TextMap, words="names", seen="ridge"), False),
    "HC: CLIP's map gates the path": (partial(TextMap, words="names", seen="clip"), True),
    "HT: relaxed transport of the mask": (partial(MovedShare, plan="relaxed"), False),
    "HT: balanced transport of the mask": (partial(MovedShare, plan="balanced"), False),
    "HT control: attention, classes even": (partial(MovedShare, plan="attention"), False),
}


def build(name: str, experiment, config: Config, backbone, text=None) -> model.TLG:
    """model.build_model with the design's part, which begins as nothing: all else starts as without it."""
    plain = model.build_model(config, backbone, text)
    if DESIGNS[name] is None:
        return plain
    make, gate = DESIGNS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = Designed(config, backbone.channels, backbone.levels, text)
        network.set_part(make(network), gate)
    start = network.state_dict()
    for key, weight in plain.state_dict().items():
        start[key].zero_()  # the map's own input channel, the last one of the decoder's first layers, stays 0
        start[key][tuple(map(slice, weight.shape))] = weight
    if getattr(network.part, "seen", "") == "ridge":
        network.part.project.copy_(fit_ridge(config, experiment, network))
    return network


@torch.no_grad()
def fit_ridge(config: Config, experiment, network: Designed) -> Tensor:
    """Backbone features [C] to words [D], from the training rows' pseudo masks and the surroundings' words."""
    rows = experiment.sampler(config).rows[:: max(1, len(experiment.sampler(config).rows) // 300)]
    make, inputs, wanted = experiment.batches(config), [], []
    classes = len(network.part.words) // 2
    for start in range(0, len(rows), 16):
        batch = make([Episode(image, (image,), c) for image, c in rows[start : start + 16]])
        features = prototypes.deep_features(batch.query, network.levels)
        inside = resize(batch.query_mask, features.shape[-2:])
        for weight, offset in ((inside, 0), (1 - inside, classes)):
            mean = prototypes.masked_mean(features, weight)
            inputs.append(F.normalize(mean, dim=1)), wanted.append(network.part.words[batch.class_ids + offset])
    x, y = torch.cat(inputs), torch.cat(wanted)
    penalty = RIDGE * len(x) / x.shape[1] * torch.eye(x.shape[1])
    return torch.linalg.solve(x.T @ x + penalty, x.T @ y)


_KEPT: dict[str, Tensor] = {}  # the CLIP's maps of every image, for all designs that a process trains


class WithClip:
    """A feature store whose images have one map more, last: the mini CLIP's unit features, each position by itself."""

    def __init__(self, store, data, clip_name: str, clip_weights: str):
        from tlg_lib.masks.clips import load_clip

        self.store, self.data, self.clip = store, data, load_clip(clip_name, clip_weights)
        self.cached, self.device = store.cached, store.device

    def __call__(self, names: list[str]) -> list[Tensor]:
        for name in names:
            if name not in _KEPT:
                _KEPT[name] = self.features(name)
        return [*self.store(names), torch.stack([_KEPT[n] for n in names])]

    @torch.no_grad()
    def features(self, name: str) -> Tensor:
        """[D, h, w] at twice the image's size."""
        pixels = self.clip.normalize(torch.from_numpy(self.data.image(name).copy()).permute(2, 0, 1)[None])
        pixels = F.interpolate(pixels, scale_factor=2, mode="bilinear", align_corners=False)
        maps = self.clip.visual_features(pixels)  # [1, C, h, w]
        alone = maps.permute(0, 2, 3, 1).flatten(0, 2)[:, :, None, None]  # [h * w, C, 1, 1]
        return self.clip.pool_and_project(alone).T.unflatten(1, maps.shape[-2:])


# --- the trial

_INPUTS = Inputs()


def job(name: str, settings: dict, folder: str) -> list[dict]:
    """Train and score one design on one fold and seed, in a worker process."""
    from tlg_lib.config import config_from_dict

    torch.set_num_threads(1)
    config = config_from_dict(settings)
    experiment = _INPUTS.open(config)
    if not isinstance(experiment.store, WithClip):
        experiment.store = WithClip(experiment.store, experiment.data, config.clip, config.clip_weights)
    built = []

    def designed(config, backbone, text=None):
        built[:] = [build(name, experiment, config, backbone, text)]
        return built[0]

    def loss(output, batch, config, parameters):
        own = share_loss(getattr(built[0], "part", None), batch)
        return total_loss(output, batch, config, parameters) + own

    training.build_model, training.total_loss = designed, loss
    training.train(config, folder, progress=False, inputs=_INPUTS)
    return evaluate_trained(settings, folder, name, name, (1,), False, True, _INPUTS)


def share_loss(part, batch) -> Tensor | float:
    """LOSS x cross-entropy of the moved share with the query's target; 0 for parts that move none."""
    if not isinstance(part, MovedShare):
        return 0.0
    odds = torch.logit(resize(part.share, batch.query_target.shape[-2:]), eps=1e-4)[:, 0]  # [B, H, W]
    return LOSS * cross_entropy(torch.stack((torch.zeros_like(odds), odds), 1), batch.query_target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="folder of trainings and tables")
    parser.add_argument("--folds", default="0,1,2,3")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", default="", help="designs, with semicolons; default: all")
    parser.add_argument("--test", action="store_true", help="score the test classes: for what was chosen without them")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], help="settings, as key=value")
    given = parser.parse_args()
    folds, seeds = cells(given.folds, given.seeds)
    base = config_from_options("mini", given.set, epoch_episodes=0)
    names = [n.strip() for n in given.only.split(";")] if given.only else list(DESIGNS)
    jobs = []
    for seed in seeds:
        for fold in folds:
            config = base.replace(fold=fold, seed=seed, validation_fold=-1 if given.test else (fold + 1) % 4)
            for name in names:
                place = Path(given.out) / ("test" if given.test else "validation") / f"{name}-{fold}-{seed}"
                jobs.append((f"{name}, fold {fold}, seed {seed}", job, (name, config.to_dict(), str(place))))
    records = []
    for done, (_, found) in enumerate(run_jobs(jobs, given.workers), 1):
        records += [r for r in found if r["epoch"] == "last"]
        print(f"{done}/{len(jobs)} done", flush=True)
    table = score_table(sorted(records, key=lambda r: names.index(r["label"].removesuffix(", network alone"))))
    write_table(Path(given.out), "designs", table, base, folds=list(folds), seeds=list(seeds), test=given.test)
    print(shown_table(table))


if __name__ == "__main__":
    main()
