"""The GPU table of docs/performance.md, made from what ``tlg bench device`` wrote, between two marks."""

from __future__ import annotations

from pathlib import Path

from ..errors import TLGError
from ..machine.paths import atomic
from .device import NETWORKS, OPERATIONS, cell
from .table import markdown

BEGIN, END = "<!-- made by tlg bench device: begin -->", "<!-- end -->"


def ms(found: dict | None, key: str = "seconds") -> str:
    """Milliseconds of a cell; what happened instead of them where it has none."""
    if found is None:
        return "not reached"
    return f"{1000 * found[key]:.1f}" if key in found else "error"


def page(result: dict) -> str:
    """Markdown of all parts of a result, whatever is there of them."""
    plan, about = result["plan"], result["about"]
    blocks = [
        f"{about.get('device', plan['device'])}, PyTorch {about.get('torch', '?')}, commit {about.get('commit', '?')}: "
        f"{plan['backbone']} (random weights, which change no time), {plan['size']} px, batch {plan['batch']}. "
        f"`tlg bench device` took {result['seconds']:.0f} s. Milliseconds are medians of rows of runs; fp32 is exact.",
        times(result),
        memory(result),
        *compiled(result),
        *loader(result),
        *profile(result),
        *parity(result),
        *trouble(result),
    ]
    return "\n\n".join(block for block in blocks if block)


def _networks(result: dict) -> list[str]:
    return [name for name in NETWORKS if name in result["plan"]["networks"]]


def times(result: dict) -> str:
    """Milliseconds, and how many times faster than the straightforward network in exact float32."""
    plan, cells, rows = result["plan"], result["cells"], []
    for what in (o for o in OPERATIONS if o in plan["operations"]):
        base = cells.get(cell("straightforward", "fp32", what), {}).get("seconds")
        for name in _networks(result):
            row = [f"{what}, {name}"]
            for precision in plan["precisions"]:
                for extra in ((), ("compiled",)):
                    found = cells.get(cell(name, precision, what, *extra))
                    if found is None and (name == "straightforward" and (extra or precision == "bf16")):
                        row.append("")
                        continue
                    times_faster = f" ({base / found['seconds']:.1f}x)" if base and found and "seconds" in found else ""
                    row.append(ms(found) + times_faster)
            rows.append(row)
    header = [f"{p}{extra}" for p in plan["precisions"] for extra in ("", ", compiled")]
    return markdown(["milliseconds (times the straightforward fp32)", *header], rows)


def memory(result: dict) -> str:
    plan, rows = result["plan"], []
    for name in _networks(result):
        found = [result["cells"].get(cell(name, p, "step"), {}).get("peak_mib") for p in plan["precisions"]]
        if any(found):
            rows.append([name, *(f"{value:.0f}" if value else "" for value in found)])
    return markdown(["peak memory of a step, MiB", *plan["precisions"]], rows) if rows else ""


def compiled(result: dict) -> list[str]:
    found = {k: v for k, v in result["cells"].items() if k.endswith("/compiled") and "first_run" in v}
    if not found:
        return []
    first = ", ".join(f"{k.removesuffix('/compiled')} {v['first_run']:.0f} s" for k, v in found.items())
    breaks = {reason for v in found.values() for reason in v["graph_breaks"]}
    return [f"First run, compiling included: {first}. Graph breaks: {'; '.join(sorted(breaks)) or 'none'}."]


def loader(result: dict) -> list[str]:
    cells, lines = result["cells"], []
    rates = [v for k, v in cells.items() if k.startswith("loader/") and "images_per_second" in v]
    if rates:
        said = ", ".join(f"{v['images_per_second']:.0f} by {v['workers'] or 'this process alone'}" for v in rates)
        lines.append(
            f"Loader, images a second by workers (generated JPEGs of 500 x 375 pixels, masks included): {said}."
        )
    row = cells.get("loader/training")
    if row and "seconds" in row:
        lines.append(
            f"A training step of `extended` in bf16 takes {ms(row)} ms with batches read ahead by {row['workers']} "
            f"workers and {ms(row, 'seconds_in_memory')} ms with batches in memory: it consumes "
            f"{row['images_per_second_needed']:.0f} images a second ({row['images_per_step']:.0f} different ones each)."
        )
    return lines


def profile(result: dict) -> list[str]:
    blocks = []
    for name, found in result["cells"].items():
        if name.startswith("profile/") and "top" in found:
            rows = [
                [f"`{r['name'][:80]}`", f"{r['ms']:.2f}", f"{100 * r['share']:.0f}%", f"{r['calls']:.0f}"]
                for r in found["top"]
            ]
            waits = ", ".join(f"{k} {v:.0f}" for k, v in found["waits"].items()) or "none"
            blocks += [
                f"Profile of {name.split('/')[1]}, bf16: kernels {found['kernels_ms']:.1f} of {found['wall_ms']:.1f} "
                f"ms, {found['launches']:.0f} launches, {100 * found['matrix_share']:.0f}% of kernel time in matrix "
                f"products and convolutions; waits a step: {waits}.",
                markdown(["kernel", "ms", "share", "calls"], rows),
            ]
    return blocks


def parity(result: dict) -> list[str]:
    rows = [
        [name.split("/")[1], f"{v['output']:.1e}", f"{v['gradient']:.1e}", "yes" if v["within"] else "NO"]
        for name, v in result["cells"].items()
        if name.startswith("parity/") and "output" in v
    ]
    header = ["against this machine's CPU in float32, 128 px", "logits", "gradients", "within tolerance"]
    return [markdown(header, rows)] if rows else []


def trouble(result: dict) -> list[str]:
    errors = [f"- {name}: {v['error']}" for name, v in result["cells"].items() if "error" in v]
    errors += [f"- {name}: {why}" for name, why in result["ended_early"].items()]
    return ["Not measured:\n\n" + "\n".join(errors)] if errors else []


def write_between(path: Path, text: str) -> None:
    """Put ``text`` between the page's marks. Raises TLGError where they are not there, in order and once."""
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TLGError(f"cannot read {path} ({error.strerror}): name a page with the marks {BEGIN} and {END}") from None
    head, begin, rest = content.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end or content.count(BEGIN) > 1:
        raise TLGError(f"{path}: the marks {BEGIN} and {END} are not there once: put them where the table should stand")
    with atomic(path, "w") as file:
        file.write(f"{head}{BEGIN}\n{text}\n{END}{tail}")
