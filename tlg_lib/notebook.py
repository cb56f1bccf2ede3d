"""What every notebook does first and last: parameters to a run, a one-line banner, data, figures on disk.

A notebook's ``parameters`` cell holds flat literals (PARAMETERS below, plus what it alone needs), so papermill
can replace them; its next cell calls ``setup`` and gets a ``Run``. With ``TLG_SMOKE=1`` in the environment
the ``mini`` preset shrinks to ``smoke``: a few images, a few steps, and a banner that says so.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from .config import FIELDS, PRESETS, VARIANTS, Config, make_config
from .errors import TLGError
from .paths import atomic, data_home, runs_home, write_json

# The parameters that all notebooks share, with their defaults; "" and "all" leave the choice to the preset.
PARAMETERS: dict[str, str | int] = {
    "preset": "mini",  # mini, smoke, pascal-lite, pascal or coco
    "fold": "all",  # "all", one number 0..3, or "0,2"
    "seed": 0,  # one number, or "0,1,2" for an interval over seeds
    "variant": "all",  # "all", corrected, released or hsnet
    "supervision": "all",  # "all", pixel or image
    "backbone": "",  # "" = the preset's; efficientnet_lite0, resnet50 or vgg16
    "shots": 5,  # 1-shot is always scored; more than one adds that many shots
    "data": "",  # dataset folder in VOC layout; "" = where `tlg data` puts it
    "settings": "",  # further settings of tlg_lib.config.Config, as "steps=100; batch=4"
    "out": "",  # run folder; "" = runs/<preset>
}
SMOKE_NOTE = "smoke: figures mean nothing"
SMOKE_IMAGES = 8  # images per class of the smoke data


@dataclass(frozen=True)
class Run:
    """One run folder and what belongs in it: every (variant, supervision) row on every fold and seed.

    config: the first of them, for notebooks that need a single one. rows: (variant, supervision) pairs.
    """

    config: Config
    folds: tuple[int, ...]
    seeds: tuple[int, ...]
    rows: tuple[tuple[str, str], ...]
    shots: tuple[int, ...]
    folder: Path
    overrides: tuple[tuple[str, object], ...] = ()

    @property
    def smoke(self) -> bool:
        return self.config.preset == "smoke"

    @property
    def note(self) -> str:
        """The warning that belongs into every figure of a smoke run, else ""."""
        return SMOKE_NOTE if self.smoke else ""

    def config_for(self, variant: str, supervision: str, fold: int, seed: int = -1) -> Config:
        """The config of one training; seed -1 means the run's first."""
        return make_config(self.config.preset, **{
            **dict(self.overrides), "variant": variant, "supervision": supervision, "fold": fold,
            "seed": self.seeds[0] if seed < 0 else seed,
        })

    def configs(self) -> list[Config]:
        """Every training of the run: rows x folds x seeds, in this order."""
        return [self.config_for(v, s, fold, seed) for v, s in self.rows for fold in self.folds for seed in self.seeds]

    def training_folder(self, config: Config) -> Path:
        name = f"{config.variant}-{config.supervision}-fold{config.fold}-seed{config.seed}"
        return self.folder / "training" / name

    def show(self, figure, name: str, alt: str) -> None:
        """Keep a figure as figures/<name>.png, show it with its alternative text, and close it."""
        from IPython.display import Image, display

        from .figures import save_figure

        path = save_figure(figure, self.folder / "figures" / f"{name}.png", alt, note=self.note)
        display(Image(data=path.read_bytes(), format="png", alt=alt))

    def keep(self, name: str, value) -> None:
        """Write a result as <run folder>/<name>.json, whole or not at all."""
        write_json(self.folder / f"{name}.json", value)


def setup(preset: str = "mini", fold="all", seed=0, variant: str = "all", supervision: str = "all",
          backbone: str = "", shots: int = 5, data: str = "", settings: str = "", out: str = "",
          quiet: bool = False) -> Run:
    """Turn the parameters cell into a Run and print one line that says what will happen.

    Raises TLGError with one line for an unknown preset, parameter or value, before any work.
    """
    if os.environ.get("TLG_SMOKE") == "1" and preset == "mini":
        preset = "smoke"
    if preset not in PRESETS:
        raise TLGError(f"unknown preset '{preset}': choose one of {', '.join(PRESETS)}")
    overrides = read_settings(settings)
    if backbone:
        overrides["backbone"] = backbone
    if data:
        overrides["data"] = str(Path(data).expanduser().resolve())
    elif preset == "smoke":
        overrides.setdefault("data", str(data_home() / "mini-smoke"))
    rows = _rows(variant, supervision)
    folds, seeds = _numbers("fold", fold, tuple(range(4))), _numbers("seed", seed, (0,))
    many = _numbers("shots", shots, (5,))
    if len(many) != 1:
        raise TLGError(f"shots={shots}: give one number; 1-shot is always scored beside it")
    first = {"variant": rows[0][0], "supervision": rows[0][1], "seed": seeds[0], "shots": 1}
    configs = [make_config(preset, **{**overrides, **first, "fold": f, "shots": many[0]}) for f in folds]
    folder = Path(out).expanduser().resolve() if out else runs_home() / preset
    run = Run(configs[0].replace(shots=1), folds, seeds, rows, tuple(sorted({1, many[0]})), folder,
              tuple(sorted(overrides.items())))
    run.configs()  # every combination is checked now, not after an hour
    if not quiet:
        print(banner(run))
    return run


def banner(run: Run) -> str:
    """One line: preset, device, folds, what is trained on what, and the warning of a smoke run."""
    listed = ", ".join(f"{variant} ({supervision})" for variant, supervision in run.rows)
    parts = [run.config.preset, device_words(run.config.device), f"folds {_join(run.folds)}",
             f"seeds {_join(run.seeds)}", f"trains {listed}", f"folder {_short(run.folder)}"]
    if run.config.backbone_weights == "random":
        parts.append("RANDOM backbone weights")
    if run.smoke:
        parts.append(SMOKE_NOTE)
    return " · ".join(parts)


def device_words(device: str = "auto") -> str:
    """The device that will compute, as a person would name it."""
    import torch

    if device in ("auto", "cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    if device.startswith("cuda"):
        raise TLGError(f"device={device}: torch sees no GPU here; use device=cpu or install a CUDA build of torch", 3)
    return f"CPU, {os.cpu_count()} cores"


def read_settings(text: str) -> dict[str, str]:
    """``"steps=100; batch=4"`` to a dictionary; names are checked against the config's fields."""
    found: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in str(text).split(";"))):
        name, equals, value = (s.strip() for s in part.partition("="))
        if not equals or not name:
            raise TLGError(f"settings: '{part}' is not of the form name=value")
        if name in PARAMETERS or name == "preset":
            raise TLGError(f"settings: '{name}' has a parameter of its own, use that")
        if name not in FIELDS:
            make_config("mini", **{name: value})  # raises with the closest name
        found[name] = value
    return found


def open_data(run: Run, masks: bool = True):
    """The run's dataset; ``mini`` (and its pseudo masks) is made now where it is missing.

    Returns a SegmentationFolder. Raises TLGError naming the missing folder and the command that makes it.
    """
    from .data.folder import open_folder

    config = run.config
    root = Path(config.data) if config.data else data_home() / config.dataset
    with _waiting_lock(root):
        if config.dataset == "mini":
            from .data.mini import make_mini

            make_mini(root, **({"images_per_class": SMOKE_IMAGES} if run.smoke else {}))
        data = open_folder(str(root), config.dataset, config.masks)
        if masks and config.dataset == "mini":
            ensure_masks(data, config)
    return data


def ensure_masks(data, config: Config) -> None:
    """Make the pseudo masks that the splits need and that are not there yet."""
    rows = [row for split in ("trn", "val") for fold in range(4) for row in data.rows(split, fold)]
    missing = data.missing_masks(rows)
    if missing:
        from .clips import load_clip
        from .masks.generate import generate_masks

        generate_masks(data, load_clip(config.clip, config.clip_weights), missing, data.masks)


def _waiting_lock(folder: Path):
    """Two notebooks started side by side make the data once."""
    from .locks import folder_lock

    folder.mkdir(parents=True, exist_ok=True)
    return folder_lock(folder, wait=True)


class Stopwatch:
    """``with Stopwatch() as watch: ...`` then ``watch.seconds``."""

    def __enter__(self):
        self.began, self.seconds = time.perf_counter(), 0.0
        return self

    def __exit__(self, *_):
        self.seconds = time.perf_counter() - self.began


def _numbers(name: str, value, everything: tuple[int, ...]) -> tuple[int, ...]:
    """"all", 2, "2" or "0,2" to whole numbers without repeats, in order."""
    if value == "all":
        return everything
    texts = [t.strip() for t in str(value).split(",")]
    if isinstance(value, bool) or not all(t.isdigit() for t in texts):
        raise TLGError(f"{name}={value!r}: expected a whole number, several as \"0,1\", or \"all\"")
    return tuple(dict.fromkeys(int(t) for t in texts))


def _rows(variant: str, supervision: str) -> tuple[tuple[str, str], ...]:
    """What to train. "all" is `corrected` on both kinds of target and the comparisons on pixels (DESIGN 3.3)."""
    for name, value, known in (("variant", variant, VARIANTS), ("supervision", supervision, ("pixel", "image"))):
        if value != "all" and value not in known:
            raise TLGError(f"unknown {name} '{value}': choose one of all, {', '.join(known)}")
    variants = VARIANTS if variant == "all" else (variant,)
    rows = []
    for v in variants:
        both = ("pixel", "image") if v == "corrected" or variant != "all" else ("pixel",)
        rows += [(v, s) for s in (both if supervision == "all" else (supervision,))]
    return tuple(rows)


def _join(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers))


def _short(path: Path) -> str:
    """A path relative to the working folder where it lies below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
