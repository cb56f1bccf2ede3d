"""Everything about one device by one command (``tlg bench device``): networks, precisions, loader, profile, parity.

Each part runs in a process of its own and says every figure as soon as it has it, so that what fails, or comes into the
time limit, costs its own cells and no others. The backbone's weights are random, which changes no time.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import torch

from ..machine.parallel import end_with
from ..machine.paths import write_json
from .cases import Case, build, make_inputs
from .measure import clock, operation

NETWORKS = ("extended", "corrected", "released", "straightforward")
PRECISIONS = ("bf16", "fp32", "tf32")
OPERATIONS = ("step", "forward1", "forward5")
ROUNDS = 3
ROW = 0.35  # seconds of runs between two looks at the clock
WORKERS = (0, 4, 8, 16)
SLOW, LONG = 0.7, 4.0  # seconds of a run from which on two are enough, and one
LOADER_SECONDS = 2.0
SHARES = {"networks": 0.45, "compiled": 0.45, "profile": 0.12, "parity": 0.15, "loader": 0.25}  # of the limit at most


@dataclass(frozen=True)
class Plan:
    """What is measured; small values make a check of the command itself."""

    device: str
    backbone: str = "resnet50"
    size: int = 400
    batch: int = 16
    limit: float = 440.0  # seconds for everything
    networks: tuple[str, ...] = NETWORKS
    precisions: tuple[str, ...] = PRECISIONS
    operations: tuple[str, ...] = OPERATIONS
    compiled: tuple[tuple[str, str], ...] = (
        ("extended", "bf16"),
        ("corrected", "bf16"),
        ("released", "bf16"),
        ("extended", "tf32"),
        ("extended", "fp32"),
        ("corrected", "tf32"),
        ("released", "tf32"),
    )
    pictures: int = 8  # of each of 20 classes, for the loader
    row: float = ROW

    def case(self, precision: str = "fp32", compile: bool = False) -> Case:
        mixed = "bf16-mixed" if precision == "bf16" else "32-true"
        return Case(self.backbone, self.size, self.batch, self.device, mixed, compile)


def set_precision(precision: str) -> None:
    """How float32 is multiplied: exactly, by TF32, or (beside the networks' own bf16 autocast) as PyTorch starts."""
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision != "fp32"


# --- the parts: each yields the names of its cells with their figures


def measure(run: Callable[[], object], device: str, row: float = ROW) -> dict[str, float]:
    """Seconds of a run, the median of ROUNDS rows of runs without a wait between, and the peak of a GPU's memory."""
    run()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    began = clock(device)
    run()
    once = clock(device) - began
    if once < SLOW:
        run()
    count, rows = max(1, min(20, int(row / max(once, 1e-6)))), []
    if once > LONG:
        rows = [once]
    else:
        for _ in range(ROUNDS if once < SLOW else 2):
            began = clock(device)
            for _ in range(count):
                run()
            rows.append((clock(device) - began) / count)
    found = {"seconds": statistics.median(rows), "least": min(rows), "most": max(rows), "runs": count * len(rows)}
    return found | ({"peak_mib": torch.cuda.max_memory_allocated() / 2**20} if device != "cpu" else {})


def networks_part(plan: Plan) -> Iterator[tuple[str, Callable[[], dict]]]:
    """Every network, precision and operation without compilation; those that decide most come first."""
    inputs = make_inputs(plan.case())
    network_of = cache(lambda name: build(plan.case(), (name,))[name])  # one that cannot be built costs its own cells
    ours = [(p, name) for p in plan.precisions for name in plan.networks if name != "straightforward"]
    # Last, as a step of it takes ten seconds on a GPU; it has no mixed precision.
    plain = [(p, "straightforward") for p in plan.precisions if p != "bf16" and "straightforward" in plan.networks]
    for precision, name in ours + plain:
        for what in plan.operations:

            def run(name=name, precision=precision, what=what):
                set_precision(precision)
                network = network_of(name)
                network.case = plan.case(precision)
                return measure(operation(network, what, inputs), plan.device, plan.row)

            yield cell(name, precision, what), run


def compiled_part(plan: Plan, name: str, precision: str) -> Iterator[tuple[str, Callable[[], dict]]]:
    """One network with torch.compile; the first cell also says how long compiling took, and what broke the graph."""
    from torch._dynamo.utils import counters

    set_precision(precision)
    network, inputs = build(plan.case(precision, True), (name,))[name], make_inputs(plan.case())

    def run(what):
        began = time.perf_counter()
        work = operation(network, what, inputs)
        work()
        first = clock(plan.device) if plan.device != "cpu" else time.perf_counter()
        breaks = {reason[:160]: count for reason, count in counters["graph_break"].items()}
        return {"first_run": first - began, "graph_breaks": breaks, **measure(work, plan.device, plan.row)}

    for what in plan.operations:
        yield cell(name, precision, what, "compiled"), lambda what=what: run(what)


def loader_part(plan: Plan) -> Iterator[tuple[str, Callable[[], dict]]]:
    """Images a second by number of workers, then training steps that wait for their batches or do not."""
    from .loader import make_pictures, rate, training_row

    with tempfile.TemporaryDirectory() as folder:
        data = make_pictures(Path(folder) / "pictures", plan.pictures)
        cores, seconds = os.cpu_count() or 1, LOADER_SECONDS * plan.row / ROW
        chosen = [n for n in WORKERS if n <= cores]
        for workers in chosen:
            run = lambda workers=workers: rate(data, plan.size, plan.batch, workers, plan.device, seconds)  # noqa: E731
            yield f"loader/{workers} workers", run
        set_precision("bf16")
        workers = max(n for n in chosen if n <= 8)
        count = 40 if plan.device != "cpu" else 2
        yield "loader/training", lambda: training_row(plan.case("bf16"), data, workers, count)


def profile_part(plan: Plan) -> Iterator[tuple[str, Callable[[], dict]]]:
    set_precision("bf16")

    def run(name, what):
        network = build(plan.case("bf16"), (name,))[name]
        return profiled(operation(network, what, make_inputs(plan.case())), plan.device)

    yield "profile/extended step", lambda: run("extended", "step")
    yield "profile/released step", lambda: run("released", "step")


def parity_part(plan: Plan) -> Iterator[tuple[str, Callable[[], dict]]]:
    """Loss, output and gradients of small cases on the device against the CPU's, by precision."""
    for precision in plan.precisions:
        for name in plan.networks:
            if name != "straightforward":
                yield f"parity/{name} {precision}", lambda name=name, p=precision: parity(plan, name, p)


# --- single figures

# Largest relative difference (of norms) that counts as the same: rounding of that precision over a deep network, in
# whose gradients a unit at ReLU's kink may fall on either side.
TOLERANCE = {"fp32": (1e-4, 2e-2), "tf32": (2e-2, 2e-1), "bf16": (5e-2, 4e-1)}


def parity(plan: Plan, name: str, precision: str) -> dict:
    """Relative differences of the query's logits and of all gradients together between this device and the CPU."""
    set_precision(precision)
    case = replace(plan.case(precision), size=min(plan.size, 128), batch=2, dropout=0.0)
    found = []
    for device, mixed in (("cpu", "32-true"), (plan.device, case.precision)):
        own = replace(case, device=device, precision=mixed)
        network, inputs = build(own, (name,))[name], make_inputs(own)
        network.network.train()
        with network.autocast():
            logits = network.logits(*network.maps(inputs, 0), inputs, 0)[0]
        network.loss(inputs).backward()
        gradients = [p.grad.flatten().float().cpu() for p in network.network.parameters() if p.grad is not None]
        found.append((logits.detach().float().cpu(), torch.cat(gradients)))
    output, gradient = (float((a - b).norm() / a.norm().clamp_min(1e-30)) for a, b in zip(*found))
    limits = TOLERANCE[precision]
    return {"output": output, "gradient": gradient, "within": output <= limits[0] and gradient <= limits[1]}


MATRIX = (
    "gemm",
    "::mm",
    "addmm",
    "bmm",
    "conv",
    "xmma",
    "cutlass",
    "wgrad",
    "dgrad",
    "mm_",
    "cudnn_generated",
    "nvjet",
)
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "aten::_local_scalar_dense", "cudaEventSynchronize")


def profiled(run: Callable[[], object], device: str, runs: int = 3, most: int = 14) -> dict:
    """Kernels that take longest, by name, the share of matrix kernels, how busy the device is, and waits per run."""
    from torch.profiler import ProfilerActivity, profile

    for _ in range(2):
        run()
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device != "cpu" else [])
    began = clock(device)
    with profile(activities=activities) as seen:
        for _ in range(runs):
            run()
        wall = clock(device) - began
    events = seen.key_averages()
    if device == "cpu":
        kernels = [(e.key, e.self_cpu_time_total, e.count) for e in events]
    else:
        kernels = [(e.key, e.self_device_time_total, e.count) for e in events if str(e.device_type).endswith("CUDA")]
    kernels = sorted((k for k in kernels if k[1] > 0), key=lambda k: -k[1])
    total = sum(k[1] for k in kernels)
    matrix = sum(k[1] for k in kernels if any(part in k[0].lower() for part in MATRIX))
    rows = [
        {
            "name": name[:110],
            "ms": round(us / runs / 1e3, 3),
            "share": round(us / max(total, 1e-9), 4),
            "calls": n / runs,
        }
        for name, us, n in kernels[:most]
    ]
    return {
        "kernels_ms": round(total / runs / 1e3, 3),
        "wall_ms": round(1e3 * wall / runs, 3),
        "matrix_share": round(matrix / max(total, 1e-9), 4),
        "busy": round(total / 1e6 / max(wall, 1e-9), 4),
        "launches": sum(k[2] for k in kernels) / runs,
        "waits": {e.key: e.count / runs for e in events if e.key in WAITS},
        "top": rows,
    }


def cell(*words: str) -> str:
    return "/".join(words)


PARTS = {
    "networks": networks_part,
    "loader": loader_part,
    "profile": profile_part,
    "parity": parity_part,
    "compiled": compiled_part,
}


def work(part: str, plan: Plan, arguments: list[str], say: Callable[[dict], None]) -> None:
    """Every cell of a part: its figures, or the error that it ended with."""
    for name, run in PARTS[part](plan, *arguments):
        say({"begun": name})
        try:
            say({"cell": name, **run()})
        except Exception as error:
            say({"cell": name, "error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
            if plan.device != "cpu":
                torch.cuda.empty_cache()


# --- the parent: one part after the other, each in a process of its own


def run_part(command: list[str], seconds: float, scratch: str, keep: Callable[[dict], None]) -> str:
    """Run one part for at most ``seconds``, handing on each cell; returns why it ended early, "" where it did not.

    command: a process that prints a line of JSON for each cell that it begins and ends; scratch: its temporary folder.
    """
    lines: queue.Queue[str | None] = queue.Queue()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # so that it can be ended with all that it started
            env={**os.environ, "TMPDIR": scratch},
        )

        def read():
            for line in process.stdout:
                lines.put(line)
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        deadline, begun = time.monotonic() + seconds, ""
        try:
            while True:
                line = lines.get(timeout=max(0.01, deadline - time.monotonic()))
                if line is None:
                    break
                try:
                    said = json.loads(line)
                except ValueError:
                    continue  # a library's own words
                begun = said.get("begun", "")
                if "cell" in said:
                    keep(said)
        except queue.Empty:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"not finished within its {seconds:.0f} s" + (f", while at {begun}" if begun else "")
        if process.wait() == 0:
            return ""
        errors.seek(0)
        last = (errors.read().strip().splitlines() or [f"exit {process.returncode}"])[-1]
        return f"{'at ' + begun + ': ' if begun else ''}{last[:300]}"


def bench_device(plan: Plan, file: Path, about: dict, say: Callable[[str], None] = print) -> dict:
    """Run all parts within the plan's limit; ``file`` is written again after every cell. Returns what it holds."""
    began = time.monotonic()
    result = {"plan": asdict(plan), "about": about, "cells": {}, "ended_early": {}, "seconds": 0.0}

    def keep(said: dict) -> None:
        name = said.pop("cell")
        result["cells"][name] = said
        result["seconds"] = round(time.monotonic() - began, 1)
        write_json(file, result)
        shown = said.get("error") or ", ".join(f"{k} {v:.4g}" for k, v in said.items() if isinstance(v, float))
        say(f"[{result['seconds']:5.0f} s] {name}: {shown[:160]}")

    compiled = [("compiled", list(pair)) for pair in plan.compiled]
    parts = [("networks", []), *compiled[:1], ("profile", []), ("parity", []), ("loader", []), *compiled[1:]]
    with tempfile.TemporaryDirectory() as scratch:
        for name, arguments in parts:
            left, label = plan.limit - (time.monotonic() - began), cell(name, *arguments)
            if left < 5:
                result["ended_early"][label] = "not begun within the time limit"
                continue
            request = json.dumps({"part": name, "plan": asdict(plan), "arguments": arguments})
            command = [sys.executable, "-m", "tlg_lib.bench.device", request]
            why = run_part(command, min(left, SHARES[name] * plan.limit), scratch, keep)
            if why:
                result["ended_early"][label] = why
                say(f"{label}: {why}")
    result["seconds"] = round(time.monotonic() - began, 1)
    write_json(file, result)
    return result


if __name__ == "__main__":
    end_with(os.getppid())
    asked = json.loads(sys.argv[1])
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in asked["plan"].items()}
    work(asked["part"], Plan(**values), asked["arguments"], lambda said: print(json.dumps(said), flush=True))
