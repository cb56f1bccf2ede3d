"""The extras of pip: what each is for, how to tell that it is there, and the line that installs it."""

from __future__ import annotations

from typing import NamedTuple


class Extra(NamedTuple):
    """package: the one whose version tells that the extra is installed; modules: what it brings, as imported."""

    package: str
    use: str
    modules: tuple[str, ...]


NOTEBOOKS = ("papermill", "nbclient", "nbformat", "nbconvert", "ipykernel", "jupyterlab", "jupyter_client")
WIDGETS = ("ipywidgets", "anywidget", "traitlets", "IPython", "latex2mathml", "nh3")
EXTRAS = {
    "notebooks": Extra("papermill", "notebooks, `tlg run`, sweeps", (*NOTEBOOKS, *WIDGETS)),
    "bench": Extra("POT", "the straightforward network of `tlg bench`", ("ot",)),
    "coco": Extra("pycocotools", "COCO's annotations", ("pycocotools",)),
    "slurm": Extra("submitit", "sweeps on a cluster", ("submitit",)),
    "crf": Extra("pydensecrf2", "dense CRF for pseudo masks", ("pydensecrf",)),
}


def extra_of(module: str) -> str | None:
    """The extra that brings a top-level module; None where the core has it or nobody does."""
    return next((name for name, extra in EXTRAS.items() if module in extra.modules), None)


def installing(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'tlg-lib[{extra}]'"
