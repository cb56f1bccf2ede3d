"""What every notebook does first and last: parameters to a run, a one-line banner, data, figures on disk.

A notebook's ``parameters`` cell holds flat literals (PARAMETERS below, plus what it alone needs), so papermill
can replace them; its next cell calls ``setup`` and gets a ``Run``. With ``TLG_SMOKE=1`` in the environment
the ``mini`` preset shrinks to ``smoke``: a few images, a few steps, and a banner that says so.
"""

from __future__ import annotations

import ast
import difflib
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from ..config import NAMES, PRESETS, SUPERVISIONS, VARIANTS, Config, make_config
from ..errors import TLGError
from ..inputs import Inputs
from ..machine.paths import data_home, runs_home, user_path
from ..machine.terminal import plain
from . import ahead

# The parameters that all notebooks share, with their defaults; "" and "all" leave the choice to the preset.
PARAMETERS: dict[str, str | int] = {
    "preset": "mini",  # mini, smoke, pascal-lite, pascal or coco
    "fold": "all",  # "all", one number 0..3, or "0,2"
    "seed": 0,  # one number, or "0,1,2" for an interval over seeds
    "variant": "all",  # "all", extended, corrected, released or hsnet
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
    """One run folder and what belongs in it: table rows (study.Row) trained on every fold and seed.

    config: the first row's on the first fold and seed, for notebooks that need a single one.
    shots: (1,) or (1, K), the numbers of support images that are scored. inputs: what the notebook opens, once.
    """

    config: Config
    folds: tuple[int, ...]
    seeds: tuple[int, ...]
    shots: tuple[int, ...]
    rows: tuple
    folder: Path
    inputs: Inputs = field(default_factory=Inputs, compare=False, repr=False)

    @property
    def smoke(self) -> bool:
        return self.config.preset == "smoke"

    @property
    def note(self) -> str:
        """The warning that belongs into every figure of a smoke run, else ""."""
        return SMOKE_NOTE if self.smoke else ""

    def study(self):
        """The run's Study: ``.train()`` and ``.evaluate()`` do what is missing and return what was found."""
        from .study import Study

        return Study(self.folder, self.config, self.folds, self.seeds, self.rows, self.shots, self.inputs)

    def train(self) -> list[dict]:
        """Train what is not trained yet; returns a summary per network (train.train), in order."""
        ahead.stop(self.folder)
        return self._alone(lambda study: study.train())

    def evaluate(self) -> list[dict]:
        """Score what is not scored yet; returns long-form records (study.py). Needs ``train`` before it."""
        return self._alone(lambda study: study.evaluate())

    def _alone(self, work):
        """Notebooks run side by side wait for each other here, and the second finds the work done."""
        from ..machine.locks import folder_lock

        open_data(self)
        with folder_lock(self.folder, name=".study.lock", wait=True):
            return work(self.study())

    def train_small(self, name: str, **changes):
        """One network of a few steps for a demonstration: (model in eval mode, config, summary).

        It lies in jobs/<name>-<digest of its settings>, so other settings never meet its checkpoint.
        """
        from ..machine.locks import folder_lock
        from ..train import load_trained, train

        open_data(self)
        config = self.config.replace(**changes)
        folder = self.demo_folder(name, config)
        with folder_lock(self.folder, name=f".{name}.lock", wait=True):
            summary = train(config, folder, False, self.inputs)
        return load_trained(folder, progress=False, inputs=self.inputs)[0], config, summary

    def demo_folder(self, name: str, config: Config) -> Path:
        """A training folder of a demonstration, its name holding the digest of its settings."""
        return self.folder / "jobs" / f"{name}-{config.digest()}"

    def job_folder(self, row: str = "", fold: int | None = None) -> Path:
        """Where one network lies: by default that of the first row on the first fold, with the first seed."""
        return self.study().job_folder(row or self.rows[0].name, self.folds[0] if fold is None else fold, self.seeds[0])

    def show(self, figure, name: str, alt: str) -> None:
        """Keep a figure as figures/<name>.png and show it with its alternative text."""
        from IPython.display import Image, display

        from ..look.figures import save_figure

        path = save_figure(figure, self.folder / "figures" / f"{name}.png", alt, note=self.note)
        display(Image(data=path.read_bytes(), format="png", alt=alt))

    def show_network(self, config: Config, lit: str = "") -> None:
        """Draw the network of a config (look/diagram.py), one part lit, and keep it as figures/network-<lit>.svg."""
        from IPython.display import display

        from ..look.diagram import network_svg
        from ..machine.paths import atomic

        drawing = network_svg(config, lit)
        with atomic(self.folder / "figures" / f"network{'-' + lit if lit else ''}.svg", "w") as file:
            file.write(drawing)
        alt = f"The network as boxes and arrows with the shapes of its tensors{f'; lit: {lit}' if lit else ''}."
        display({"image/svg+xml": drawing, "text/plain": alt}, raw=True)


def typed(name: str, value, default):
    """A notebook's parameter, from a shell's text or a YAML's value, in the kind of its default.

    The numbers that all notebooks share may be several, as "0,1". Raises TLGError with one line for another kind.
    """
    text = str(value).strip() if isinstance(value, (str, int, float)) and not isinstance(value, bool) else None
    if text is not None and (len(text) > 1000 or not text.isprintable()):
        raise TLGError(f"{name}: printable text only, at most 1000 characters")
    if isinstance(default, bool):
        words = {
            "true": True,
            "on": True,
            "yes": True,
            "1": True,
            "false": False,
            "off": False,
            "no": False,
            "0": False,
        }
        found = value if isinstance(value, bool) else words.get((text or "").lower())
        kind = "true or false"
    elif isinstance(default, int):
        whole = re.fullmatch(r"[+-]?[0-9]{1,18}", text or "")
        several = name in PARAMETERS and re.fullmatch(r"[0-9]{1,10}(\s*,\s*[0-9]{1,10})+|all", text or "")
        found, kind = int(text) if whole else text if several else None, "a whole number"
    elif isinstance(default, float):
        found, kind = _float(text), "a number"
    elif isinstance(default, str):
        found, kind = text, "text"
    else:
        found = _literal(value, type(default))
        kind = f"a {type(default).__name__} as Python writes it"
    if found is None:
        raise TLGError(f"{name}={plain(str(value), line=True)[:60]}: expected {kind}")
    return found


def _float(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _literal(value, kind: type):
    """Lists and the like, which a shell hands over as text; None when it is none of this kind."""
    try:
        found = ast.literal_eval(value) if isinstance(value, str) else value
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None
    return found if isinstance(found, kind) else None


def setup(
    preset: str = "mini",
    fold="all",
    seed=0,
    variant: str = "all",
    supervision: str = "all",
    backbone: str = "",
    shots: int = 5,
    data: str = "",
    settings: str = "",
    out: str = "",
    quiet: bool = False,
) -> Run:
    """Turn the parameters cell into a Run and print one line that says what will happen.

    Raises TLGError with one line for an unknown preset, parameter or value, before any work.
    """
    given = (preset, fold, seed, variant, supervision, backbone, shots, data, settings, out)
    preset, fold, seed, variant, supervision, backbone, shots, data, settings, out = map(
        typed, PARAMETERS, given, PARAMETERS.values()
    )
    if os.environ.get("TLG_SMOKE") == "1" and preset == "mini":
        preset = "smoke"
    if preset not in PRESETS:
        raise TLGError(f"unknown preset '{preset}': choose one of {', '.join(PRESETS)}")
    refuse_unknown_parameters()
    overrides = read_settings(settings)
    if backbone:
        overrides["backbone"] = backbone
    if data:
        overrides["data"] = str(user_path(data, follow=True))
    elif preset == "smoke":
        overrides.setdefault("data", str(_smoke_home()))
    from .study import FOLDS, row_config, several

    folds, seeds = several("fold", fold, FOLDS), several("seed", seed, (0,))
    many = several("shots", shots, (5,))
    if len(many) != 1:
        raise TLGError(f"shots={shots}: give one number; 1-shot is always scored beside it")
    base = make_config(preset, **overrides, fold=folds[0], seed=seeds[0], shots=many[0]).replace(shots=1)
    rows = _rows(base, variant, supervision)
    folder = user_path(out, follow=True) if out else runs_home() / preset
    configs = [row_config(base, row, f, s) for row in rows for f in folds for s in seeds]  # checked now, all
    run = Run(configs[0], folds, seeds, tuple(sorted({1, many[0]})), rows, folder)
    if not quiet:
        if ahead.one_thread_is_enough(run.config):
            import torch

            torch.set_num_threads(1)  # the core that is free trains ahead
        print(banner(run))
    return run


def banner(run: Run) -> str:
    """One line: preset, device, folds, what is trained on what, and the warning of a smoke run."""
    parts = [
        run.config.preset,
        device_words(run.config.device),
        f"folds {_join(run.folds)}",
        f"seeds {_join(run.seeds)}",
        "trains " + ", ".join(row.name for row in run.rows),
        f"folder {_short(run.folder)}",
    ]
    if run.config.backbone_weights == "random":
        parts.append("RANDOM backbone weights")
    if run.smoke:
        parts.append(SMOKE_NOTE)
    return " · ".join(parts)


def device_words(device: str = "auto") -> str:
    """The device that will compute, as a person would name it. Raises TLGError where it is not there."""
    from ..machine.device import device_name, pick_device

    picked = pick_device(device)
    return f"CPU, {os.cpu_count()} cores" if picked.type == "cpu" else device_name(picked)


def read_settings(text: str) -> dict[str, str]:
    """``"steps=100; batch=4"`` to a dictionary; names are checked against the config's fields."""
    found: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in str(text).split(";"))):
        name, equals, value = (s.strip() for s in part.partition("="))
        if not equals or not name:
            raise TLGError(f"settings: '{part}' is not of the form name=value")
        if name in PARAMETERS or name == "preset":
            raise TLGError(f"settings: '{name}' has a parameter of its own, use that")
        if name not in NAMES:
            make_config("mini", **{name: value})  # raises with the closest name
        found[name] = value
    return found


def refuse_unknown_parameters() -> None:
    """In a kernel started by papermill: a name that its injected cell sets and the parameters cell does not.

    papermill itself only logs such a name, and a mistyped one would silently run the defaults.
    """
    history = globals_of_kernel().get("In", [])
    for before, cell in zip(history, history[1:]):
        if cell.startswith("# Parameters\n"):
            declared, injected = assigned_names(before), assigned_names(cell)
            for name in sorted(injected - declared):
                close = difflib.get_close_matches(name, sorted(declared), n=1)
                raise TLGError(
                    f"unknown parameter '{name}': "
                    + (f"did you mean '{close[0]}'?" if close else f"the names are {', '.join(sorted(declared))}")
                )


def globals_of_kernel() -> dict:
    """The namespace of the notebook that runs this, empty outside of one."""
    try:
        from IPython import get_ipython
    except ImportError:
        return {}
    shell = get_ipython()
    return shell.user_ns if shell is not None else {}


def assigned_names(source: str) -> set[str]:
    """Names that a cell assigns at its top level."""
    targets = [t for node in ast.parse(source).body if isinstance(node, ast.Assign) for t in node.targets]
    return {t.id for t in targets if isinstance(t, ast.Name)}


def open_data(run: Run):
    """The run's dataset (SegmentationFolder); ``mini`` and its pseudo masks are made where they are missing.

    A smoke run has its own few images. Raises TLGError naming the missing folder and the command to make it.
    """
    from ..experiment import open_data as open_any
    from ..machine.locks import folder_lock
    from ..protocol import data_root

    root = data_root(run.config)
    if run.config.dataset != "mini":
        return open_any(run.config)
    with folder_lock(root.parent, name=f".{root.name}.open.lock", wait=True):  # notebooks side by side make it once
        if run.smoke and root == _smoke_home():  # never into a folder that somebody named
            from ..data.mini.make import make_mini

            make_mini(root, images_per_class=SMOKE_IMAGES, progress=False)
        return open_any(run.config)


def _smoke_home() -> Path:
    return data_home() / "mini-smoke"


def _rows(config: Config, variant: str, supervision: str) -> tuple:
    """What to train: the whole table of docs/design.md, 3.3, or every wanted variant on every wanted kind of target."""
    from .study import Row, table_rows

    for name, value, known in (("variant", variant, VARIANTS), ("supervision", supervision, SUPERVISIONS)):
        if value != "all" and value not in known:
            raise TLGError(f"unknown {name} '{value}': choose one of all, {', '.join(known)}")
    table = table_rows(config)
    if variant == supervision == "all":
        return table
    named = {row.name: row for row in table}
    rows = []
    for v in VARIANTS if variant == "all" else (variant,):
        for s in SUPERVISIONS if supervision == "all" else (supervision,):
            changes = (("supervision", s), ("variant", v))
            rows.append(named.get(f"{v}-{s}") or Row(f"{v}-{s}", f"{v}, {s} labels", changes, full=True))
    return tuple(rows)


def _join(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers))


def _short(path: Path) -> str:
    """A path relative to the working folder where it lies below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
