"""Benchmark results as readable tables (Markdown, which also reads well in a terminal)."""

from __future__ import annotations

import statistics


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table with aligned columns, the first one to the left."""
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]
    line = lambda row: (
        "| "
        + " | ".join(str(c).ljust(w) if i == 0 else str(c).rjust(w) for i, (c, w) in enumerate(zip(row, widths)))
        + " |"
    )
    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([line(header), rule, *(line(row) for row in rows)])


def seconds(value: float) -> str:
    return f"{value:.3g}"


def case_title(result: dict) -> str:
    case = result["case"]
    extras = [case["precision"]] + [k for k in ("compile", "channels_last", "activation_checkpointing") if case[k]]
    return (
        f"{case['backbone']}, {case['size']} px, batch {case['batch']}, {case['device']} "
        f"({result['threads']} threads), {', '.join(extras)}"
    )


def network_tables(result: dict) -> str:
    """All tables of one case of ``tlg bench network``."""
    names = list(next(iter(result["seconds"].values())))
    blocks = [f"### {case_title(result)}"]
    rows = []
    for operation, runs in result["seconds"].items():
        row = [operation] + [seconds(statistics.median(runs[n]["wall"])) for n in names]
        for n in names:
            ratio = result["ratio"].get(operation, {}).get(n)
            if n != "straightforward":
                row.append(f"{ratio['wall']:.2f} / {ratio['cpu']:.2f}" if ratio else "")
        rows.append(row)
    header = ["seconds, median of pairs", *names] + [f"x {n} (wall / CPU)" for n in names if n != "straightforward"]
    blocks.append(markdown(header, rows))

    kinds = list(dict.fromkeys(part for n in names for part in result["parts"][n]))
    rows = []
    for part in kinds + ["sum"]:
        row = [part]
        for n in names:
            there = result["parts"][n]
            chosen = list(there.values()) if part == "sum" else [there[part]] if part in there else []
            row += (
                [seconds(sum(p["seconds"] for p in chosen)), f"{sum(p['multiply_adds'] for p in chosen) / 1e9:.2f}"]
                if chosen
                else ["", ""]
            )
        rows.append(row)
    blocks.append(markdown(["forward, 1 shot, by part"] + [f"{n} {u}" for n in names for u in ("s", "G")], rows))
    blocks.append(
        "Roofline, share of the measured matrix-product rate (wall / CPU time): "
        + "; ".join(
            f"{n} {100 * r['wall_fraction']:.0f}% / {100 * r['cpu_fraction']:.0f}% of "
            f"{r['matrix_product_per_second'] / 1e9:.0f} GFLOP/s"
            for n, r in result["roofline"].items()
        )
    )
    if "memory" in result:
        rows = [
            [name]
            + [f"{result['memory'][n][name]['peak']:.0f} ({result['memory'][n][name]['before']:.0f})" for n in names]
            for name in ("forward1", "step")
        ]
        blocks.append(markdown(["peak memory, MiB (before)", *names], rows))
    if "difference" in result:
        blocks.append(
            "Worst relative difference, straightforward against released: "
            + "; ".join(
                f"{kind} output {d['output']:.1e}, gradient {d['gradient']:.1e}"
                for kind, d in result["difference"].items()
            )
        )
    return "\n\n".join(blocks)


def scaling_table(result: dict) -> str:
    """Cost against size, measured and fitted."""
    rows = [[p["size"], seconds(p["forward"]), seconds(p["step"]), f"{p['peak']:.0f}"] for p in result["points"]]
    lines = [
        f"### {result['network']}, {result['backbone']}, batch {result['batch']}",
        markdown(["size, px", "forward, s", "training step, s", "peak memory, MiB"], rows),
    ]
    for what, fit in result["fits"].items():
        lines.append(
            f"{what}: {fit['constant']:.3g} + {fit['factor']:.3g} x (size / 100)^4 "
            f"+ {fit['area']:.3g} x (size / 100)^2, worst miss {100 * fit['worst']:.0f}%"
        )
    return "\n\n".join(lines)
