"""What this machine has and lacks: data, weights, device, versions, disk, folders; each with its remedy."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ..data.listing import list_images, list_masks
from ..errors import TLGError
from ..machine.extras import EXTRAS, installing
from ..machine.paths import PACKAGE, cache_home, data_home, home, notebooks_home, runs_home

OK, NOTE, PROBLEM = "ok", "note", "problem"
ROOM = 3 << 30  # bytes that `make run` and its caches need at most


@dataclass(frozen=True)
class Finding:
    """One line of the report. state: "ok", "note" (works without it) or "problem" (something will fail).

    remedy: what to do; empty where there is nothing to do.
    """

    area: str
    state: str
    text: str
    remedy: str = ""


def examine(preset: str = "") -> list[Finding]:
    """Look at everything, or at what ``preset`` needs; a check that itself fails becomes a problem with its reason."""
    found: list[Finding] = []
    checks = CHECKS
    if preset:
        from ..config import make_config

        config = make_config(preset)  # an unknown preset is refused before anything is looked at
        checks = {"versions": versions, "device": device, preset: lambda: needs(config), "folders": folders}
    for area, check in checks.items():
        try:
            found += check()
        except TLGError as error:
            text, _, remedy = str(error).rpartition(": ")
            found.append(Finding(area, PROBLEM, text, remedy))
        except Exception as error:  # a broken installation fails in ways that nobody foresees
            remedy = "reinstall: `make install` in a clone, else pip install --force-reinstall of the wheel"
            found.append(Finding(area, PROBLEM, f"{type(error).__name__}: {error}", remedy))
    return found


def versions() -> Iterator[Finding]:
    """Python and every required package against pyproject.toml, as pip recorded it."""
    from packaging.requirements import Requirement

    python = platform.python_version()
    if sys.version_info < (3, 10):  # noqa: UP036 -- an environment may be older than its installer thinks
        yield Finding("versions", PROBLEM, f"Python {python}", "use Python 3.10 or newer")
    required = [Requirement(text) for text in metadata.requires("tlg-lib") or []]
    wanted = [r for r in required if r.marker is None or r.marker.evaluate({"extra": ""})]
    fine = 0
    for requirement in wanted:
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Finding("versions", PROBLEM, f"{requirement.name} is not installed", f"pip install '{requirement}'")
            continue
        if requirement.specifier.contains(version, prereleases=True):
            fine += 1
        else:
            yield Finding(
                "versions",
                PROBLEM,
                f"{requirement.name} {version}, needs {requirement.specifier}",
                f"pip install '{requirement}'",
            )
    yield Finding(
        "versions", OK, f"Python {python}, {fine} of {len(wanted)} packages, torch {metadata.version('torch')}"
    )
    for name, extra in EXTRAS.items():
        try:
            yield Finding("versions", OK, f"{extra.package} {metadata.version(extra.package)} ({extra.use})")
        except metadata.PackageNotFoundError:
            compiler = " (needs a compiler)" if name == "crf" else ""
            yield Finding("versions", NOTE, f"no {extra.package}: {extra.use}", installing(name) + compiler)


def device() -> Iterator[Finding]:
    """What will compute, and whether a GPU is there that torch cannot see."""
    import torch

    from ..machine.device import lacking

    count = torch.cuda.device_count()
    for i in range(count):
        properties = torch.cuda.get_device_properties(i)
        free, total = torch.cuda.mem_get_info(i)
        yield Finding(
            "device",
            OK,
            f"GPU {i}: {properties.name}, {free >> 30} of {total >> 30} GB free, CUDA "
            f"{torch.version.cuda}, bf16 {'yes' if torch.cuda.is_bf16_supported() else 'no'}",
        )
    if not count:
        hidden = shutil.which("nvidia-smi") is not None and Path("/dev/nvidia0").exists()
        if hidden:
            yield Finding(
                "device",
                PROBLEM,
                f"a GPU is there and torch {torch.__version__} does not see it",
                "install the CUDA build of torch that fits the driver (`nvidia-smi`), or --set device=cpu",
            )
        if torch.backends.mps.is_available():
            reason = lacking("mps")
            used = f"is not used by device=auto ({reason})" if reason else "is used by device=auto"
            yield Finding("device", NOTE if reason else OK, f"the GPU of this Mac {used}", "")
        yield Finding("device", OK, f"CPU, {os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads")
        yield Finding(
            "device",
            NOTE,
            "no GPU: presets mini and pascal-lite are meant for this, pascal and coco are not",
            "run those two where a GPU is, or through `tlg sweep ... --slurm`",
        )
    memory = _memory()
    if memory:
        small = memory < 4 << 30
        yield Finding(
            "device",
            NOTE if small else OK,
            f"{memory / (1 << 30):.1f} GB of memory",
            "use --set batch=2 and one worker" if small else "",
        )


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


def weights() -> Iterator[Finding]:
    """Backbones, CLIP and the photographs' network: shipped and pip-installed ones by checksum, others by presence."""
    from ..checkpoints import load_checkpoint
    from ..predict import PHOTO

    yield from weights_shipped()
    load_checkpoint(PHOTO)
    yield Finding("weights", OK, "network for photographs, checksum right")
    yield from map(_backbone, ("resnet50", "vgg16"))
    yield from map(_clip, ("ViT-B-32/openai", "ViT-B-16-quickgelu/openai"))


def weights_shipped() -> Iterator[Finding]:
    """The backbones that come by pip and the mini CLIP, in this order."""
    from ..machine.weights import PIP_PACKAGES, PUBLISHED, pip_weights_file, verify_sha256
    from ..masks.clips import load_clip

    for name in PIP_PACKAGES:
        verify_sha256(pip_weights_file(name), PUBLISHED[name])
        yield Finding("weights", OK, f"{name} (ImageNet), checksum right")
    load_clip("mini")
    yield Finding("weights", OK, "mini CLIP, checksum right")


def _backbone(name: str, missing: str = NOTE) -> Finding:
    import torch
    import torchvision.models as models

    entry = {"resnet50": models.ResNet50_Weights, "vgg16": models.VGG16_Weights}[name]
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.IMAGENET1K_V1.url).name
    if file.is_file():
        return Finding("weights", OK, f"{name} (ImageNet) in {file.parent}")
    remedy = f"tlg data weights; offline: put {file.name} into {file.parent} or --set backbone_weights=FILE"
    return Finding("weights", missing, f"no {name} weights, needed by presets pascal and coco", remedy)


def _clip(name: str, missing: str = NOTE) -> Finding:
    if _cached_clip(name):
        return Finding("weights", OK, f"CLIP {name} in the cache")
    remedy = "tlg data weights; offline: --set clip_weights=FILE"
    return Finding("weights", missing, f"no CLIP {name}, needed by presets pascal and coco", remedy)


def needs(config) -> Iterator[Finding]:
    """What a preset needs beside the packages: its backbone, its CLIP, its data and their pseudo masks."""
    from ..machine.weights import PIP_PACKAGES
    from ..protocol import data_root

    shipped = dict(zip((*PIP_PACKAGES, "mini"), weights_shipped()))
    yield shipped.get(config.backbone) or _backbone(config.backbone, PROBLEM)
    yield shipped.get(config.clip) or _clip(config.clip, PROBLEM)
    root, made = data_root(config), config.dataset == "mini"
    for kind in ("JPEGImages", "SegmentationClassAug", "PseudoMasks"):
        count = len((list_images if kind == "JPEGImages" else list_masks)(root / kind).files)
        masks = f"tlg masks make --data {root}"
        remedy = masks if kind == "PseudoMasks" else f"tlg data {root.name}, or name a folder in VOC layout with --data"
        if count or made:
            yield Finding("data", OK, f"{count:,} files in {root / kind}" + " (made by the first run)" * (not count))
        else:
            yield Finding("data", PROBLEM, f"nothing in {root / kind}", remedy)


def _cached_clip(name: str) -> bool:
    """Whether open_clip has fetched these weights before, in either of its two caches."""
    from open_clip.pretrained import get_pretrained_cfg

    model, _, tag = name.partition("/")
    entry = get_pretrained_cfg(model, tag) or {}
    url = entry.get("url", "")
    old = Path.home() / ".cache" / "clip" / Path(url).name
    if url and old.is_file():
        return True
    repository = str(entry.get("hf_hub", "")).strip("/")
    if not repository:
        return False
    from huggingface_hub import try_to_load_from_cache

    names = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    return any(isinstance(try_to_load_from_cache(repository, file), str) for file in names)


DATASETS = {"mini": ("mini", "tlg data mini"), "Pascal VOC": ("voc", "tlg data voc"), "COCO": ("coco", "tlg data coco")}


def data() -> Iterator[Finding]:
    """The three datasets where `tlg data` puts them; how complete, and whether pseudo masks are there."""
    for name, (folder, remedy) in DATASETS.items():
        root = data_home() / folder
        images = len(list_images(root / "JPEGImages").files)
        if not images:
            needed = "made by the first run" if name == "mini" else "needed by its presets only"
            yield Finding("data", NOTE, f"no {name} in {root} ({needed})", remedy)
            continue
        masks = len(list_masks(root / "PseudoMasks").files)
        labels = len(list_masks(root / "SegmentationClassAug").files)
        text = f"{name}: {images:,} images, {labels:,} label maps, {masks:,} pseudo masks in {root}"
        if not labels:
            yield Finding("data", PROBLEM, text, f"{remedy}, or name a folder in VOC layout with --data")
        elif not masks:
            yield Finding("data", NOTE, text, f"tlg masks make --data {root}")
        else:
            yield Finding("data", OK, f"{text}; `tlg data verify {root}` decodes every file")


def folders() -> Iterator[Finding]:
    """Data, cache and runs: writable, on a file system with locks, and with room."""
    yield Finding("folders", OK, f"home {home()}" + (" (TLG_HOME)" if os.environ.get("TLG_HOME") else ""))
    for name, folder in (("data", data_home()), ("cache", cache_home()), ("runs", runs_home())):
        yield _folder(name, folder)


def _folder(name: str, folder: Path) -> Finding:
    from ..machine.locks import folder_lock

    standing = next(p for p in (folder, *folder.parents) if p.exists())
    remedy = "set TLG_HOME to a folder on another disk"
    try:
        with tempfile.TemporaryDirectory(dir=standing, prefix=".tlg-doctor-") as place, folder_lock(place):
            pass
    except OSError as error:
        return Finding(
            "folders",
            PROBLEM,
            f"{name}: {standing} cannot be written ({error.strerror})",
            f"make it writable, or {remedy}",
        )
    except TLGError as error:
        return Finding("folders", PROBLEM, f"{name}: {error}", remedy)
    free = shutil.disk_usage(standing).free
    text = f"{name}: {folder}, writable, locks work, {free / (1 << 30):.1f} GB free"
    if free < ROOM:
        return Finding("folders", PROBLEM, text, f"free {ROOM >> 30} GB, or {remedy}")
    return Finding("folders", OK, text)


def notebooks() -> Iterator[Finding]:
    """The notebooks' folder and a Python kernel of this environment for papermill."""
    try:
        from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
    except ModuleNotFoundError:  # the core alone: `tlg train`, `tlg predict` and the rest need no Jupyter
        yield Finding("notebooks", NOTE, "no Jupyter: notebooks, `tlg run` and sweeps need it", installing("notebooks"))
        return

    count = len(list(notebooks_home().glob("[0-9][0-9]_*.ipynb")))
    yield Finding(
        "notebooks",
        OK if count else PROBLEM,
        f"{count} notebooks in {notebooks_home()}",
        "" if count else "restore the folder from the repository",
    )
    try:
        interpreter = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        yield Finding("notebooks", PROBLEM, "no Jupyter kernel 'python3'", "python -m ipykernel install --sys-prefix")
        return
    # "python" in the spec is replaced by the running interpreter when a kernel starts.
    same = (
        Path(interpreter).name == interpreter
        or Path(interpreter).exists()
        and Path(interpreter).parent == Path(sys.executable).parent
    )
    yield Finding(
        "notebooks",
        OK if same else PROBLEM,
        f"kernel python3 runs {interpreter}",
        "" if same else "python -m ipykernel install --sys-prefix, so that notebooks use this environment",
    )


def cluster() -> Iterator[Finding]:
    if shutil.which("sbatch"):
        yield Finding("cluster", OK, "SLURM is here: `tlg sweep SPEC --slurm`")
    else:
        yield Finding("cluster", NOTE, "no SLURM: `tlg sweep` runs on this machine", "")


CHECKS: dict[str, Callable[[], Iterator[Finding]]] = {
    "versions": versions,
    "device": device,
    "weights": weights,
    "data": data,
    "folders": folders,
    "notebooks": notebooks,
    "cluster": cluster,
}


def library_place() -> str:
    from .. import __version__

    return f"tlg_lib {__version__} in {PACKAGE}"
