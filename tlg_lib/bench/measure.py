"""Time, memory and differences of a case: paired and interleaved, so that a busy machine hurts all alike."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..errors import TLGError
from .cases import Case, Inputs, Library, Plain, build, make_inputs
from .roofline import PRODUCT_OPERATIONS, matrix_product

PARTS = ("backbone", "correlation", "4D encoder", "HA", "HT", "HC", "prior", "decoder", "rest")


def clock(device: str) -> float:
    """Seconds, after all work queued on a GPU is done."""
    if device != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def paired_seconds(operations: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, dict]:
    """{name: {"wall": [...], "cpu": [...]}}: seconds of each operation in each of ``repeats`` rounds.

    Every round runs all of them, in turning order, and ratios are formed within rounds. ``cpu`` is the process's
    processor time over all threads: with one thread it is the better figure on a machine that others use too.
    """
    seconds: dict[str, dict] = {name: {"wall": [], "cpu": []} for name in operations}
    names = list(operations)
    for round_ in range(repeats):
        first = round_ % len(names)
        for name in names[first:] + names[:first]:
            began, began_cpu = clock(device), time.process_time()
            operations[name]()
            seconds[name]["wall"].append(clock(device) - began)
            seconds[name]["cpu"].append(time.process_time() - began_cpu)
    return seconds


def median_ratio(first: list[float], second: list[float]) -> float:
    """Median over rounds of first / second."""
    return statistics.median(a / b for a, b in zip(first, second))


class PartMeter:
    """Seconds and multiply-adds of the parts of a network: wraps methods while it is open, each counted without
    the parts inside it.

    ``targets``: (owner, attribute, part). Time of a GPU is measured with a synchronisation at each border.
    """

    def __init__(self, targets, device: str, count: bool):
        self.targets = [(o, a, p) for o, a, p in targets if hasattr(o, a)]
        self.device, self.counter = device, FlopCounterMode(display=False) if count else None
        self.totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self.inside: list[list[float]] = []

    def _now(self) -> list[float]:
        flops = self.counter.get_total_flops() / 2 if self.counter else 0.0
        return [clock(self.device), flops]

    def wrap(self, function, part: str):
        def timed(*args, **kwargs):
            began = self._now()
            self.inside.append([0.0, 0.0])
            try:
                return function(*args, **kwargs)
            finally:
                spent = [b - a for a, b in zip(began, self._now())]
                children = self.inside.pop()
                for i in (0, 1):
                    self.totals[part][i] += spent[i] - children[i]
                    if self.inside:
                        self.inside[-1][i] += spent[i]

        return timed

    def run(self, operation: Callable[[], object]) -> dict[str, dict[str, float]]:
        """{part: {"seconds", "multiply_adds"}} of one run; "rest" is what no part claims."""
        before = []
        for owner, attribute, part in self.targets:
            before.append((owner, attribute, vars(owner).get(attribute)))
            setattr(owner, attribute, self.wrap(getattr(owner, attribute), part))
        try:
            if self.counter:
                with self.counter:
                    self.wrap(operation, "rest")()
            else:
                self.wrap(operation, "rest")()
        finally:
            for owner, attribute, value in before:
                if value is None:
                    delattr(owner, attribute)
                else:
                    setattr(owner, attribute, value)
        return {
            p: {"seconds": self.totals[p][0], "multiply_adds": self.totals[p][1]} for p in PARTS if p in self.totals
        }


def part_targets(network: Plain) -> list[tuple]:
    """Which methods make up which part."""
    targets = [(network.backbone, "forward", "backbone")]
    if not isinstance(network, Library):
        net = network.network
        return targets + [
            (net, "correlation", "correlation"),
            (net, "encode", "4D encoder"),
            (net, "aggregate", "HA"),
            (net, "transport", "HT"),
            (net, "text", "HC"),
            (net, "decode", "decoder"),
        ]
    from .. import model as module

    model = network.model
    targets += [
        (module, "correlate", "correlation"),
        (module, "mask_features", "correlation"),
        (model, "_encode", "4D encoder"),
        (model, "_aggregate", "HA"),
        (module, "residual_map", "HT"),
        (model, "_prior", "prior"),
        (model.decoder, "forward", "decoder"),
    ]
    if hasattr(model, "transport"):
        targets.append((model.transport, "forward", "HT"))
    if hasattr(model, "text"):
        targets += [(model.text, "forward", "HC"), (model.text, "maps", "HC")]
    return targets


def parts(network: Plain, operation: Callable[[], object], device: str) -> dict[str, dict[str, float]]:
    """Seconds (one run) and multiply-adds (another, as counting slows down) of each part of an operation."""
    timed = PartMeter(part_targets(network), device, count=False).run(operation)
    counted = PartMeter(part_targets(network), device, count=True).run(operation)
    return {p: {"seconds": timed[p]["seconds"], "multiply_adds": counted[p]["multiply_adds"]} for p in timed}


def worst_difference(case: Case, double: bool) -> dict[str, float]:
    """Library's `released` against the straightforward network: dropout off, same weights and inputs.

    output: worst absolute difference over the largest magnitude; gradient: the same, the worst parameter's. In
    float32 a unit whose input lies within rounding of ReLU's kink may fall on either side, which moves
    gradients by up to a few thousandths; ``double`` repeats in float64, where only true differences remain.
    """
    case = Case(**{**case.to_dict(), "dropout": 0.0, "compile": False, "precision": "32-true"})
    networks, inputs = build(case, ("straightforward", "released")), make_inputs(case)
    plain, library = networks["straightforward"], networks["released"]
    if double:
        for network in (plain.backbone, plain.network, library.network):
            network.double()
        inputs.query_mask, inputs.support_mask = inputs.query_mask.double(), [m.double() for m in inputs.support_mask]
    from ..released.convert import release_key

    query, support = plain.maps(inputs, 0)  # the same maps for both: the backbone is not compared here
    outputs = []
    for network in (plain, library):
        network.network.train()
        output = network.logits(query, support, inputs, 0)
        outputs.append(torch.stack([o.detach() for o in output]))
        loss = 1.4 * torch.nn.functional.cross_entropy(output[0], inputs.query_target)
        (loss + 0.6 * torch.nn.functional.cross_entropy(output[1], inputs.support_target)).backward()
    theirs = dict(plain.network.named_parameters())
    worst = 0.0
    for key, parameter in library.network.named_parameters():
        other = theirs[release_key(key)].grad
        if (other is None) != (parameter.grad is None):
            return {"output": relative(*outputs), "gradient": float("inf")}
        if other is not None:
            worst = max(worst, relative(other, parameter.grad))
    return {"output": relative(*outputs), "gradient": worst}


def relative(expected: torch.Tensor, got: torch.Tensor) -> float:
    """Worst absolute difference over the largest magnitude of ``expected``."""
    return float((expected - got).abs().max() / expected.abs().max().clamp_min(1e-30))


NETWORKS = ("straightforward", "released", "corrected", "extended")
OPERATIONS = ("forward1", "forward5", "step")


def operation(network: Plain, name: str, inputs: Inputs) -> Callable[[], object]:
    if name == "step":
        return lambda: network.step(inputs)
    return lambda: network.forward(inputs, int(name[-1]))


def peak_memory(case: Case, network: str, name: str) -> dict[str, float]:
    """Peak of one operation in a fresh process, MiB: ``peak`` and ``before`` (inputs, weights, libraries loaded).

    CPU: the resident set's high-water mark (VmHWM), reset before the operation. GPU: the allocator's peak.
    """
    request = json.dumps({"case": case.to_dict(), "network": network, "operation": name})
    done = subprocess.run([sys.executable, "-m", "tlg_lib.bench.measure", request], capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
        raise TLGError(f"measuring the memory of {network} {name} at {case.size} px failed: {reason}", code=5)
    return json.loads(done.stdout.splitlines()[-1])


def _resident(field: str) -> float:
    """VmRSS or VmHWM of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def _measure_memory(request: dict) -> dict[str, float]:
    case = Case(**request["case"])
    network = build(case, (request["network"],))[request["network"]]
    run = operation(network, request["operation"], make_inputs(case))
    if case.device != "cpu":
        before = torch.cuda.memory_allocated() / 2**20
        torch.cuda.reset_peak_memory_stats()
        run()
        return {"before": before, "peak": torch.cuda.max_memory_allocated() / 2**20}
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM to the present VmRSS (proc(5))
    run()
    return {"before": before, "peak": _resident("VmHWM")}


def measure_case(
    case: Case,
    repeats: int,
    names=NETWORKS,
    operations=OPERATIONS,
    memory: bool = True,
    difference: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> dict:
    """Everything about one case, as plain values for JSON (fields: docs/performance.md)."""
    networks, inputs = build(case, names), make_inputs(case)
    result: dict = {"case": case.to_dict(), "threads": torch.get_num_threads(), "seconds": {}, "ratio": {}}
    for name in operations:
        runs = {n: operation(network, name, inputs) for n, network in networks.items()}
        for run in runs.values():
            run()  # warm up: kernels chosen, optimizer state made
        result["seconds"][name] = seconds = paired_seconds(runs, repeats, case.device)
        if "straightforward" in networks:
            result["ratio"][name] = {
                n: {kind: median_ratio(seconds["straightforward"][kind], s[kind]) for kind in ("wall", "cpu")}
                for n, s in seconds.items()
                if n != "straightforward"
            }
        say(f"{name}: " + ", ".join(f"{n} {statistics.median(s['wall']):.2f} s" for n, s in seconds.items()))
    forwards = {n: operation(network, "forward1", inputs) for n, network in networks.items()}
    result["parts"] = {n: parts(network, forwards[n], case.device) for n, network in networks.items()}
    result["roofline"] = {
        n: roofline(run, sum(p["multiply_adds"] for p in result["parts"][n].values()), repeats, case.device)
        for n, run in forwards.items()
    }
    del networks, forwards
    if memory:
        result["memory"] = {n: {name: peak_memory(case, n, name) for name in ("forward1", "step")} for n in names}
        say(
            "peak memory of a step: "
            + ", ".join(f"{n} {m['step']['peak']:.0f} MiB" for n, m in result["memory"].items())
        )
    if difference and {"straightforward", "released"} <= set(names):
        small = Case(**{**case.to_dict(), "size": min(case.size, 224), "batch": 1})
        result["difference"] = {"float32": worst_difference(case, False), "float64": worst_difference(small, True)}
        say(f"worst relative difference: {result['difference']}")
    return result


def roofline(run: Callable[[], object], multiply_adds: float, repeats: int, device: str) -> dict[str, float]:
    """Rate of a forward pass over the rate of matrix products, the two measured in turns; medians of rounds.

    ``cpu`` uses processor time for both, ``wall`` elapsed time. Rates in floating-point operations per second
    (two per multiply-add); only convolutions and matrix products are counted as work, so normalisation, resizing
    and copies lower the fraction.
    """
    operations = {"forward": run, "matrix product": matrix_product(device)}
    seconds = paired_seconds(operations, max(3, repeats), device)
    rates = {
        kind: (
            2 * multiply_adds / statistics.median(seconds["forward"][kind]),
            PRODUCT_OPERATIONS / statistics.median(seconds["matrix product"][kind]),
        )
        for kind in ("wall", "cpu")
    }
    result = {f"{kind}_fraction": a / b for kind, (a, b) in rates.items()}
    return {**result, "operations_per_second": rates["wall"][0], "matrix_product_per_second": rates["wall"][1]}


if __name__ == "__main__":
    if os.environ.get("TLG_BENCH_THREADS"):
        torch.set_num_threads(int(os.environ["TLG_BENCH_THREADS"]))
    print(json.dumps(_measure_memory(json.loads(sys.argv[1]))))
