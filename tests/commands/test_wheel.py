"""What a user installs: sdist and wheel are whole, and work in a folder outside the checkout without it."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def run(*command, cwd, **more):
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "TLG_HOME")}
    env |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", **more}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(sdist, wheel made from that sdist)."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    source.mkdir()
    for path in ROOT.iterdir():  # the folders of data and runs at the top are large, those inside tlg_lib are code
        if path.name in ("data", "runs", "cache", "build", "dist", "artefacts") or path.name.startswith("."):
            continue
        if path.is_dir():
            shutil.copytree(path, source / path.name, ignore=shutil.ignore_patterns("__pycache__", "pictures"))
        else:
            shutil.copy(path, source)
    build = "from setuptools import build_meta as b; import sys; b.build_{}(sys.argv[1])"
    run(sys.executable, "-c", build.format("sdist"), folder, cwd=source)
    sdist = next(folder.glob("*.tar.gz"))
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    run(sys.executable, "-c", build.format("wheel"), folder, cwd=next((folder / "unpacked").iterdir()))
    return sdist, next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The bin folder of an environment that holds the wheel; its dependencies are those of this one."""
    place = tmp_path_factory.mktemp("env") / "env"
    venv.create(place, with_pip=False, symlinks=os.name == "posix")
    python = place / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=place).strip())
    # A .pth file inside a folder named by a .pth file is not read, so an editable install there is not seen.
    (site / "shared.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    run(*pip, "--ignore-installed", built[1], cwd=place)
    return place / "bin"


def test_the_sdist_holds_what_git_holds_but_pages(built):
    with tarfile.open(built[0]) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    ours = [p for d in ("tlg_lib", "notebooks", "tests", "data_scripts") for p in (ROOT / d).rglob("*") if p.is_file()]
    lacking = {
        p.relative_to(ROOT).as_posix() for p in ours if not any(x.startswith(("__py", ".")) for x in p.parts[-2:])
    }
    lacking |= {"Makefile", "README.md", "LICENSE", "CITATION.cff", "pyproject.toml", "setup.py", "environment.yml"}
    assert not lacking - held


def test_metadata_says_who_what_and_for_which_python(built):
    import zipfile
    from email import message_from_bytes

    with zipfile.ZipFile(built[1]) as wheel:
        about = message_from_bytes(wheel.read(next(n for n in wheel.namelist() if n.endswith("/METADATA"))))
    assert about["License-Expression"] == "MIT" and about["Author"] == "The tlg-lib authors"
    assert {"notebooks", "bench", "coco", "slurm", "test", "all"} <= set(about.get_all("Provides-Extra"))
    core = [r for r in about.get_all("Requires-Dist") if "extra ==" not in r]
    assert not [r for r in core if r.lower().startswith(("pot", "torchmetrics", "jupyter", "submitit", "pycoco"))]
    assert about["Requires-Python"] == ">=3.10" and about["Description-Content-Type"] == "text/markdown"


def test_everything_is_found_outside_the_checkout(installed, tmp_path):
    code = """
import json, tlg_lib
from tlg_lib.machine.paths import home, notebooks_home
from tlg_lib.runs.cell import NOTEBOOK
from tlg_lib.runs.notebooks import find_notebooks, read_preset
print(json.dumps([tlg_lib.__file__, str(home()), str(notebooks_home()), NOTEBOOK.is_file(), len(find_notebooks()),
                  read_preset("smoke")["preset"]]))
"""
    place, home, notebooks, cell, count, preset = json.loads(run(installed / "python", "-c", code, cwd=tmp_path))
    inside = str(installed.parent)
    assert place.startswith(inside) and notebooks.startswith(inside) and home == str(tmp_path)
    assert cell and count == len(list((ROOT / "notebooks").glob("[0-9]*.ipynb"))) and preset == "smoke"


def test_commands_work_outside_the_checkout(installed, tmp_path):
    from tlg_lib import __version__
    from tlg_lib.data.mini.render import render

    tlg = installed / "tlg"
    assert run(tlg, "--version", cwd=tmp_path) == f"tlg {__version__}\n"
    assert "--support-mask" in run(tlg, "predict", "--help", cwd=tmp_path, COLUMNS="200")
    findings = json.loads(run(tlg, "doctor", "--json", cwd=tmp_path))["findings"]
    assert not [f for f in findings if f["state"] == "problem"]
    run(tlg, "notebooks", "mine", cwd=tmp_path)
    assert (tmp_path / "mine" / "00_start_here.ipynb").is_file() and (tmp_path / "mine/params/mini.yaml").is_file()
    assert (tmp_path / "mine/photos/cat.jpg").is_file()

    for number in range(2):
        Image.fromarray(render(0, 6, number, "trn", 128)[1]).save(tmp_path / f"{number}.png")
    asked = [tlg, "predict", "--query", "0.png", "--support", "1.png", "--json"]
    for extra in (["--class", "car", "--out", "named"], ["--support-mask", "20,20,110,110", "--out", "drawn"]):
        summary = json.loads(run(*asked, *extra, cwd=tmp_path))
        mask = np.array(Image.open(tmp_path / summary["queries"][0]["mask"]))
        assert mask.shape == (128, 128) and 0 < (mask == 255).mean() < 1


def test_training_works_outside_the_checkout(installed, tmp_path, tiny_voc):
    values = [
        "--data",
        tiny_voc,
        "--out",
        "run",
        "--set",
        "dataset=pascal",
        "--set",
        "steps=2",
        "--set",
        "epoch_episodes=2",
    ]
    run(installed / "tlg", "train", "smoke", *values, cwd=tmp_path)
    assert (tmp_path / "run" / "checkpoint.safetensors").is_file()
