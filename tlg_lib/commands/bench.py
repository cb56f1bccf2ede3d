"""`tlg bench`: what things cost, measured side by side with a straightforward network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as o

app = typer.Typer(no_args_is_help=True, help="Measure time, memory and arithmetic. Tables and JSON in runs/bench.")

Backbones = Annotated[list[str] | None, typer.Option("--backbone", help="repeatable; default: all three")]
Sizes = Annotated[list[int] | None, typer.Option("--size", help="image side in pixels; repeatable")]
Batches = Annotated[list[int] | None, typer.Option("--batch", help="repeatable; default 1 and 4 (CPU) or 16 (GPU)")]
Networks = Annotated[list[str] | None, typer.Option("--network", help="straightforward, released, corrected, extended")]
Operations = Annotated[list[str] | None, typer.Option("--operation", help="forward1, forward5, step; repeatable")]
Repeats = Annotated[int, typer.Option(min=1, help="rounds; figures are medians over rounds")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda")]
Threads = Annotated[int, typer.Option(min=0, help="processor threads; 0 = all")]
Out = Annotated[Path | None, typer.Option(help="folder for the JSON, the table and figures")]


def _choices(given: list[str] | None, allowed: tuple[str, ...], option: str) -> list[str]:
    from ..errors import TLGError

    for value in given or []:
        if value not in allowed:
            raise TLGError(f"{option} {value}: choose from {', '.join(allowed)}")
    return list(given or allowed)


def _start(device: str, threads: int) -> str:
    """Set the threads, name the device."""
    import os

    import torch

    from ..machine.device import pick_device

    if threads:
        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # for the processes that measure memory
    return pick_device(device).type


def _finish(name: str, result: dict, text: str, out: Path | None) -> Path:
    from ..machine.device import environment
    from ..machine.paths import atomic, runs_home, write_json

    folder = out or runs_home() / "bench"
    write_json(folder / f"{name}.json", {"environment": environment(), **result})
    with atomic(folder / f"{name}.md", "w") as file:
        file.write(text + "\n")
    print(f"\n{text}\n\nwritten: {folder / name}.json, {name}.md")
    return folder


@app.command()
def network(
    backbone: Backbones = None,
    size: Sizes = None,
    batch: Batches = None,
    networks: Networks = None,
    operations: Operations = None,
    repeats: Repeats = 3,
    device: Device = "auto",
    threads: Threads = 0,
    precision: Annotated[str, typer.Option(help="of the library: 32-true or bf16-mixed")] = "32-true",
    compile: Annotated[bool, typer.Option(help="torch.compile the library's network")] = False,
    channels_last: Annotated[bool, typer.Option(help="memory format of the library's 2D maps")] = False,
    checkpointing: Annotated[bool, typer.Option(help="recompute 4D activations in the backward pass")] = False,
    memory: Annotated[bool, typer.Option(help="peak memory, one process per figure")] = True,
    out: Out = None,
) -> None:
    """The straightforward network against the library. Forward, 5 shots, step, by part, memory, differences."""
    from ..backbones import LAYOUTS
    from ..bench.cases import Case
    from ..bench.measure import NETWORKS, OPERATIONS, measure_case
    from ..bench.table import network_tables

    networks = _choices(networks, NETWORKS, "--network")
    operations = _choices(operations, OPERATIONS, "--operation")
    backbones = _choices(backbone, tuple(LAYOUTS), "--backbone")
    kind = _start(device, threads)
    results = []
    for name in backbones:
        for side in size or (128, 224, 400):
            for count in batch or ((1, 4) if kind == "cpu" else (1, 16)):
                case = Case(name, side, count, kind, precision, compile, channels_last, checkpointing)
                case.config("released")  # a wrong size is told before any work
                print(f"{name}, {side} px, batch {count}", flush=True)
                results.append(
                    measure_case(
                        case,
                        repeats,
                        tuple(networks),
                        tuple(operations),
                        memory,
                        say=lambda line: print(f"  {line}", flush=True),
                    )
                )
    _finish("network", {"cases": results}, "\n\n".join(network_tables(r) for r in results), out)


@app.command()
def scaling(
    backbone: Annotated[str, typer.Option(help="resnet50, vgg16 or efficientnet_lite0")] = "resnet50",
    network: Annotated[str, typer.Option(help="straightforward, released or extended")] = "extended",
    size: Sizes = None,
    batch: Annotated[int, typer.Option(min=1)] = 1,
    repeats: Repeats = 3,
    device: Device = "auto",
    threads: Threads = 0,
    out: Out = None,
) -> None:
    """Time and memory against the image size, fitted and drawn."""
    from ..backbones import LAYOUTS
    from ..bench.measure import NETWORKS
    from ..bench.scaling import SIZES, measure_scaling, scaling_figure
    from ..bench.table import scaling_table
    from ..machine.paths import atomic

    _choices([backbone], tuple(LAYOUTS), "--backbone")
    _choices([network], NETWORKS, "--network")
    result = measure_scaling(
        backbone,
        network,
        batch,
        _start(device, threads),
        repeats,
        tuple(size or SIZES),
        say=lambda line: print(line, flush=True),
    )
    folder = _finish(f"scaling-{network}-{backbone}", result, scaling_table(result), out)
    with atomic(folder / f"scaling-{network}-{backbone}.png") as file:
        scaling_figure(result).savefig(file, format="png", dpi=120)


@app.command()
def mini(
    preset: Annotated[str, typer.Argument(help="a preset whose data is there")] = "mini",
    repeats: Repeats = 5,
    device: Device = "auto",
    threads: Threads = 0,
    settings: o.Set = None,
    out: Out = None,
) -> None:
    """A preset's training step and evaluation. Cached features against the backbone in the loop; loading by part."""
    from ..bench.mini import bench_mini, mini_table

    config = o.config_from_options(preset, settings, device=_start(device, threads))
    result = bench_mini(config, repeats)
    _finish(f"mini-{preset}", result, mini_table(result), out)


@app.command()
def masks(
    model: Annotated[str, typer.Option(help="open_clip architecture, weights drawn at random")] = "ViT-B-16",
    size: Annotated[int, typer.Option(min=64, help="image side in pixels")] = 400,
    batch: Annotated[int, typer.Option(min=1)] = 1,
    repeats: Repeats = 3,
    device: Device = "auto",
    threads: Threads = 0,
    half: Annotated[bool, typer.Option(help="bfloat16 in the tower")] = False,
    out: Out = None,
) -> None:
    """Seconds per image of pseudo-mask generation, stage by stage."""
    from ..bench.masks import bench_masks
    from ..bench.table import markdown

    result = bench_masks(model, size, batch, repeats, _start(device, threads), half=half)
    seconds = result["seconds_per_image"]
    rows = [
        [f"all, refined by {result['refine']}" if stage == "total" else stage, f"{value:.3f}"]
        for stage, value in seconds.items()
    ]
    title = (
        f"### Masks: {model} with random weights, {size} px, batch {batch}, "
        f"{result['device']} ({result['threads']} threads)"
    )
    _finish("masks", result, f"{title}\n\n{markdown(['stage', 'seconds per image'], rows)}", out)


@app.command()
def loader(
    workers: Annotated[list[int] | None, typer.Option(min=0, max=256, help="repeatable; default 0, 2, 4, ...")] = None,
    size: Annotated[int, typer.Option(min=64, help="image side in pixels")] = 400,
    batch: Annotated[int, typer.Option(min=1, help="episodes")] = 16,
    backbone: Annotated[str, typer.Option(help="of the training step that the loader is compared with")] = "resnet50",
    step: Annotated[bool, typer.Option(help="measure training steps with and without the loader as well")] = True,
    steps: Annotated[int, typer.Option(min=1, help="so many of them")] = 10,
    seconds: Annotated[float, typer.Option(min=0.1, help="of reading, for each number of workers")] = 5.0,
    device: Device = "auto",
    threads: Threads = 0,
    out: Out = None,
) -> None:
    """Images a second that workers read, and steps consume. The photographs are generated."""
    import os
    import tempfile

    from ..backbones import LAYOUTS
    from ..bench.cases import Case
    from ..bench.loader import loader_text, make_pictures, rate, training_row

    _choices([backbone], tuple(LAYOUTS), "--backbone")
    kind = _start(device, threads)
    case = Case(backbone, size, batch, kind, "32-true" if kind == "cpu" else "bf16-mixed")
    case.config("extended")
    cores = os.cpu_count() or 1
    result = {"case": case.to_dict(), "cores": cores, "rates": []}
    with tempfile.TemporaryDirectory() as folder:
        data = make_pictures(Path(folder) / "pictures")
        for count in workers or [n for n in (0, 1, 2, 4, 8, 16) if n <= cores]:
            result["rates"].append(rate(data, size, batch, count, kind, seconds))
            print(f"{count} workers: {result['rates'][-1]['images_per_second']:.0f} images a second", flush=True)
        if step:
            result["training"] = training_row(case, data, result["rates"][-1]["workers"], steps)
    _finish("loader", result, loader_text(result), out)


@app.command("device")
def device_(
    device: Device = "auto",
    limit: Annotated[float, typer.Option(min=1, help="seconds for everything")] = 440.0,
    size: Annotated[int, typer.Option(min=64, help="image side in pixels")] = 400,
    batch: Annotated[int, typer.Option(min=1)] = 16,
    backbone: Annotated[str, typer.Option(help="resnet50, vgg16 or efficientnet_lite0")] = "resnet50",
    networks: Networks = None,
    operations: Operations = None,
    compile: Annotated[bool, typer.Option(help="torch.compile as well, in what time is left")] = True,
    brief: Annotated[
        bool, typer.Option(help="one short row of runs a cell: to try the command, not for figures")
    ] = False,
    page: Annotated[Path | None, typer.Option(help="write the table between this page's marks as well")] = None,
    out: Out = None,
) -> None:
    """All of one device in eight minutes. Networks, precisions, memory, compilation, loader, profile, parity.

    Every figure is written as soon as it is there; a cell that fails is written as its error. The backbone's weights
    are random.
    """
    from ..backbones import LAYOUTS
    from ..bench import gpu_page
    from ..bench.device import NETWORKS, OPERATIONS, Plan, bench_device
    from ..machine.device import environment
    from ..machine.paths import runs_home

    plan = Plan(
        _start(device, 0),
        *_choices([backbone], tuple(LAYOUTS), "--backbone"),
        size,
        batch,
        limit,
        tuple(_choices(networks, NETWORKS, "--network")),
        operations=tuple(_choices(operations, OPERATIONS, "--operation")),
        **({} if compile else {"compiled": ()}),
        **({"row": 0.0, "pictures": 2} if brief else {}),
    )
    plan.case().config("released")  # a wrong size is told before any work
    if page:
        gpu_page.write_between(page, "")
    folder = out or runs_home() / "bench"
    result = bench_device(plan, folder / "device.json", environment(), say=lambda line: print(line, flush=True))
    text = gpu_page.page(result)
    _finish("device", result, text, out)
    if page:
        gpu_page.write_between(page, text)
        print(f"written: {page}")


@app.command()
def images(
    count: Annotated[
        list[int] | None, typer.Option(min=400, max=10**6, help="repeatable; default 1,000 to 100,000")
    ] = None,
    out: Out = None,
) -> None:
    """Lists, draws and features against the number of images. On a simulated folder."""
    from ..bench.growth import COUNTS, images_table, measure_images

    results = [measure_images(n) for n in count or COUNTS]
    _finish("images", {"results": results}, images_table(results), out)


@app.command()
def protocols(
    file: Annotated[
        Path | None, typer.Argument(help="what `tlg bench device` wrote; default runs/bench/device.json")
    ] = None,
    precision: Annotated[str, typer.Option(help="bf16, fp32 or tf32")] = "bf16",
    out: Out = None,
) -> None:
    """What Pascal-5i and COCO-20i cost in full. One GPU, eight, and a SLURM array, from a device's measured times."""
    from ..bench.device import PRECISIONS
    from ..bench.protocols import protocols as rows
    from ..bench.protocols import protocols_table, read_device
    from ..machine.paths import runs_home

    _choices([precision], PRECISIONS, "--precision")
    result = read_device(file or runs_home() / "bench" / "device.json")
    text = protocols_table(result, precision)
    about = f"{result['about'].get('device', result['plan']['device'])}, commit {result['about'].get('commit', '?')}"
    _finish("protocols", {"from": result["about"], "rows": rows(result, precision)}, f"From {about}:\n\n{text}", out)


@app.command("run-profile")
def run_profile(
    folder: Annotated[Path | None, typer.Argument(help="a folder that `tlg run` wrote; default runs/mini")] = None,
    out: Out = None,
) -> None:
    """Where the time of a notebook run went. Per notebook, and the slowest cells."""
    from ..bench.notebooks import notebook_profile
    from ..machine.paths import runs_home

    result, text = notebook_profile(folder or runs_home() / "mini")
    _finish("run-profile", result, text, out)


@app.command()
def widgets(
    preset: Annotated[str, typer.Argument(help="mini, smoke or any other; its data must be there")] = "mini",
    repeats: Repeats = 10,
    device: Device = "auto",
    threads: Threads = 0,
    out: Out = None,
) -> None:
    """Milliseconds from a widget's control to its pictures."""
    from ..bench.widgets import bench_widgets, widgets_table
    from ..config import make_config

    result = bench_widgets(make_config(preset, device=_start(device, threads)), repeats)
    title = f"### Widgets: {preset}, {result['backbone']}, {result['threads']} threads"
    _finish("widgets", result, f"{title}\n\n{widgets_table(result)}", out)
