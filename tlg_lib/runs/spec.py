"""Batches of runs: a spec becomes cells (one config each), which run side by side and survive interruption.

A sweep's folder holds ``sweep.json`` (the spec as read), one folder per cell (``cell.json`` what to run,
``status.json`` how it went, ``log.txt``, the executed notebook, checkpoints and scores) and, rewritten after
every call, ``results.csv``, ``summary.csv``, ``comparisons.csv`` and figures (tables.py). All is
decided from these files, so a sweep can be killed, resumed, extended and moved.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path

from ..config import NAMES, PRESETS, Config, make_config
from ..errors import TLGError
from ..machine.paths import runs_home, user_path
from ..machine.safe_yaml import read_yaml

SPECS = Path(__file__).with_name("sweeps")
MOST_CELLS = 5000
FAILED_CODE = 8  # exit code: the sweep ended, some cells failed


@dataclass(frozen=True)
class Cell:
    """One run: a row of the table (``setting``) on one fold and seed. ``name`` is its folder."""

    name: str
    setting: str
    config: Config


@dataclass(frozen=True)
class Spec:
    """A checked sweep. ``compare``: pairs of settings; ``slurm``: options of the cluster (slurm.py)."""

    name: str
    description: str
    cells: tuple[Cell, ...]
    compare: tuple[tuple[str, str], ...] = ()
    slurm: dict = field(default_factory=dict)

    @property
    def settings(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.setting for cell in self.cells))


# --- reading a spec

_KEYS = {"name", "description", "preset", "set", "settings", "grid", "cells", "compare", "slurm"}


def preset_specs() -> dict[str, Path]:
    """The specs that come with the library, by name."""
    return {path.stem: path for path in sorted(SPECS.glob("*.yaml"))}


def load_spec(source: str | Path, overrides: dict | None = None) -> Spec:
    """Read and check a spec: a YAML file, or the name of one that comes with the library.

    overrides: settings for every cell, as from ``--set``; they win over the spec's.
    Raises TLGError naming the file and the entry.
    """
    known = preset_specs()
    path = known.get(str(source), Path(source))
    if not path.is_file():
        raise TLGError(f"no sweep '{source}': give a YAML file or one of {', '.join(known)}")
    return spec_from_dict(read_yaml(path), default_name=path.stem, where=str(source), overrides=overrides)


def spec_from_dict(values, default_name: str = "sweep", where: str = "the spec", overrides: dict | None = None) -> Spec:
    """Check a spec given as a dictionary (the YAML's value). Raises TLGError naming the entry."""
    values = _mapping(values, where)
    unknown = sorted(set(values) - _KEYS)
    if unknown:
        raise TLGError(f"{where}: unknown entry '{unknown[0]}': the entries are {', '.join(sorted(_KEYS))}")
    name = _folder_name(values.get("name", default_name), f"{where}: name")
    preset = values.get("preset", "mini")
    if not isinstance(preset, str) or preset not in PRESETS:
        raise TLGError(f"{where}: unknown preset {_short(preset)}: choose one of {', '.join(PRESETS)}")
    common = _overrides(values.get("set"), f"{where}: set")
    last = dict(overrides or {})
    settings = _mapping(values.get("settings"), f"{where}: settings")
    grid = _grid(values.get("grid"), f"{where}: grid")
    rows = [(str(key), _overrides(value, f"{where}: settings: {key}")) for key, value in settings.items()]
    combined: list[tuple[str, dict]] = []
    size = max(1, len(rows)) * _product(len(v) for v in grid.values())
    if size > MOST_CELLS:
        raise TLGError(f"{where}: {size} cells: a sweep has at most {MOST_CELLS}, split it")
    if rows or grid:
        for setting, bundle in rows or [("", {})]:
            for combination in itertools.product(*grid.values()):
                point = dict(zip(grid, combination))
                twice = sorted(set(point) & set(bundle))
                if twice:
                    raise TLGError(f"{where}: '{twice[0]}' stands in grid and in setting '{setting}': keep one")
                combined.append((setting, {**bundle, **point}))
    extra = values.get("cells") or []
    if not isinstance(extra, list):
        raise TLGError(f"{where}: cells: expected a list of mappings")
    for position, entry in enumerate(extra):
        entry = dict(_mapping(entry, f"{where}: cells: entry {position}"))
        setting = entry.pop("setting", "")
        if not isinstance(setting, str):
            raise TLGError(f"{where}: cells: entry {position}: setting must be text")
        bundle = dict(rows).get(setting, {})
        combined.append((setting, {**bundle, **_overrides(entry, f"{where}: cells: entry {position}")}))
    if not combined:
        raise TLGError(f"{where}: no cells: give grid, settings or cells")
    if len(combined) > MOST_CELLS:
        raise TLGError(f"{where}: {len(combined)} cells: a sweep has at most {MOST_CELLS}, split it")
    cells = tuple(_cell(setting, preset, {**common, **point, **last}, where) for setting, point in combined)
    _refuse_twins(cells, where)
    names = tuple(dict.fromkeys(cell.setting for cell in cells))
    compare, slurm = _pairs(values.get("compare"), names, where), _slurm(values.get("slurm"), where)
    return Spec(name, str(values.get("description", "")), cells, compare, slurm)


def _cell(setting: str, preset: str, overrides: dict, where: str) -> Cell:
    overrides = dict(overrides)
    preset = overrides.pop("preset", preset)
    try:
        config = make_config(preset, **overrides)
    except TLGError as error:
        raise TLGError(f"{where}: {error}", code=error.code) from None
    if not setting:
        shown = {k: v for k, v in overrides.items() if k not in ("fold", "seed", "data", "device")}
        setting = ", ".join(f"{k}={_short(v)}" for k, v in shown.items()) or preset
    # The digest keeps cells apart whatever their settings are called; an edited setting becomes a new cell.
    # Names stay short enough for any file system.
    slug = re.sub(r"[^A-Za-z0-9.=_-]+", "-", setting).strip("-.")[:60] or "cell"
    name = f"{slug}-fold{config.fold}-seed{config.seed}-{config.digest()[:8]}"
    return Cell(name, setting, config)


def _refuse_twins(cells: tuple[Cell, ...], where: str) -> None:
    seen: dict[str, Cell] = {}
    for cell in cells:
        other = seen.setdefault(cell.config.digest(), cell)
        if other is not cell:
            raise TLGError(
                f"{where}: '{other.setting}' and '{cell.setting}' are the same run (fold "
                f"{cell.config.fold}, seed {cell.config.seed}): drop one"
            )


def _mapping(value, where: str) -> dict:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, (str, int)) for key in value):
        raise TLGError(f"{where}: expected names with values")
    return {str(k): v for k, v in value.items()}


def _overrides(value, where: str) -> dict:
    """Names of config fields with plain values."""
    found = _mapping(value, where)
    for key, item in found.items():
        if key not in NAMES:
            try:
                make_config("mini", **{key: item})  # raises with the closest name
            except TLGError as error:
                raise TLGError(f"{where}: {error}") from None
        _plain(item, f"{where}: {key}")
    return found


def _plain(value, where: str) -> None:
    """Numbers, text, true/false, or a short list of numbers (sizes)."""
    items = value if isinstance(value, list) else [value]
    if len(items) > 8 or not all(isinstance(v, (bool, int, float, str)) for v in items):
        raise TLGError(f"{where}: expected a number, text, true or false, or a short list of numbers")
    if any(isinstance(v, str) and (len(v) > 500 or not v.isprintable()) for v in items):
        raise TLGError(f"{where}: text must be printable and at most 500 characters")
    if any(isinstance(v, int) and abs(v) > 10**12 for v in items):
        raise TLGError(f"{where}: the number is too large")


def _grid(value, where: str) -> dict[str, list]:
    grid = _mapping(value, where)
    for key, choices in grid.items():
        if not isinstance(choices, list) or not choices:
            raise TLGError(f"{where}: {key}: expected a list of values, as [0, 1]")
        for choice in choices:
            _overrides({key: choice}, where)
    return grid


def _pairs(value, settings: tuple[str, ...], where: str) -> tuple[tuple[str, str], ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise TLGError(f"{where}: compare: expected a list of pairs, as [[a, b]]")
    pairs = []
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(p, str) for p in pair):
            raise TLGError(f"{where}: compare: expected pairs of settings, as [a, b]")
        missing = [p for p in pair if p not in settings]
        if missing:
            raise TLGError(f"{where}: compare: no setting '{missing[0]}': the settings are {', '.join(settings)}"[:600])
        pairs.append((pair[0], pair[1]))
    return tuple(pairs)


_NUMBERS = "time_min mem_gb max_requeues signal_delay_s array_parallelism nodes cpus_per_task gpus_per_node".split()
_NAMES = "partition account qos constraint gres exclude reservation".split()
SLURM = {**dict.fromkeys(_NUMBERS, int), **dict.fromkeys(_NAMES, str)}  # what a spec may ask of the cluster


def _slurm(value, where: str) -> dict:
    """Options of sbatch by submitit's names: those of SLURM, and values that name things, never a command."""
    options = _mapping(value, f"{where}: slurm")
    for key, item in options.items():
        if key not in SLURM:
            raise TLGError(f"{where}: slurm: '{_short(key)}' cannot be set here: the options are {', '.join(SLURM)}")
        if SLURM[key] is int:
            if type(item) is not int or not 0 <= item <= 10**6:
                raise TLGError(f"{where}: slurm: {key}={_short(item)}: expected a whole number")
        elif not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.,:=&|*()\[\]-]{0,99}", str(item)):
            raise TLGError(f"{where}: slurm: {key}={_short(item)}: letters, digits and .,:=&|*()[]_- only")
    return options


def _folder_name(value, where: str) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", value):
        raise TLGError(f"{where}: {_short(value)}: letters, digits, '.', '_' and '-' only, at most 80")
    return value


def _product(numbers) -> int:
    result = 1
    for number in numbers:
        result *= number
    return result


def _short(value) -> str:
    text = " ".join(repr(value).split()) if not isinstance(value, str) else value
    return text if len(text) <= 60 else text[:57] + "..."


# --- the folder of a sweep


def sweep_folder(spec: Spec, out: str | Path = "") -> Path:
    return user_path(out) if out else runs_home() / "sweeps" / spec.name
