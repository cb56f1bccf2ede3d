"""The network as a drawing, made from the model itself: every arrow's shape is one that a forward pass left.

``network_svg(config)`` runs the network once on empty maps, captures its tensors, and draws boxes and arrows as SVG;
``lit`` colours one part and fades the rest, so that each notebook can show where in the whole it is.
``python -m tlg_lib.look.diagram docs`` writes the drawings of the documentation.
"""

from __future__ import annotations

import html
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from ..backbones import LAYOUTS
from ..capture import capture
from ..config import Config, make_config
from ..errors import TLGError
from ..machine.paths import atomic
from ..model import TLG
from ..text_prior import random_text_vectors

WIDTH, HEIGHT = 1240, 560
ROWS = {"support": 110, "shared": 280, "query": 450}  # y of the middle of a row of boxes
COLOURS = {"support": ("#F6E6EE", "#CC79A7"), "query": ("#DDECF6", "#0072B2"), "shared": ("#EEF3EA", "#009E73")}
INK, GREY = "#222222", "#767676"
BOX = 88  # height of a box
# part -> (x, width, rows it stands in, words, second line); the part's weights are those of the model's attribute.
PARTS = {
    "backbone": (94, 92, ("support", "shared", "query"), "backbone", "frozen"),
    "correlation": (262, 104, ("shared",), "correlation", "cosine of all pairs"),
    "encoder": (446, 104, ("shared",), "4D encoder", "who agrees with whom"),
    "aggregation": (446, 104, ("support", "query"), "HA", "own layers, merged"),
    "transport": (640, 104, ("support", "query"), "HT", "tokens and a plan"),
    "text": (834, 104, ("support", "shared", "query"), "HC", "times a text map"),
    "decoder": (1032, 104, ("support", "query"), "decoder", "adds the 4D map, sees its mask"),
}
WORDS = {"text": {"shared": ("words", "name, attribute, surroundings")}}
BRANCH = {"support": "s", "query": "q"}
CHAIN = (("aggregation", "ha/{}_merge"), ("transport", "ht/{}_out"), ("text", "hc/{}_multimodal"))


def tensor_shapes(config: Config) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """(shape per tensor name without the batch axis, weights per part) of the network of ``config``.

    The names are those of ``model.tensor_names()``; nothing is read from disk, the maps that go in are zeros.
    """
    layout = LAYOUTS[config.backbone]
    model = TLG(config, layout.channels, layout.levels, random_text_vectors(2, 512)).eval()
    grids = layout.grids(config.image_size)
    maps = [torch.zeros(1, layout.channels[i], *grids[g]) for g, level in enumerate(layout.levels) for i in level]
    mask, nobody = torch.zeros(1, 1, *config.image_size), torch.zeros(1, dtype=torch.long)
    with torch.no_grad(), capture(model) as seen:
        model(maps, maps, mask, mask, nobody)
    weights = {
        part: sum(p.numel() for p in getattr(model, part).parameters()) for part in PARTS if hasattr(model, part)
    }
    return {name: tuple(tensor.shape[1:]) for name, tensor in seen.items()}, weights


def network_svg(config: Config, lit: str = "", title: str = "") -> str:
    """SVG text of the network; lit: one of PARTS to colour while the others fade, "" colours all.

    Raises TLGError for an unknown part, or one that this network does not have.
    """
    shapes, weights = tensor_shapes(config)
    there = {"backbone", "correlation", "encoder", "decoder", *weights}
    if lit and lit not in there:
        raise TLGError(f"no part '{lit}' in this network: choose one of {', '.join(p for p in PARTS if p in there)}")
    size = "x".join(map(str, config.image_size))
    title = title or f"TLG, {config.backbone}, {size} pixels: one shared network, two perspectives"
    parts = [_text(20, 30, title, 17, INK, bold=True, anchor="start")]
    parts += _arrows(shapes, lit)
    for part in PARTS:
        if part in there:
            parts += _boxes(part, weights, not lit or part == lit)
    for branch, y in ROWS.items():
        if branch != "shared":
            parts.append(_text(48, y - 4, branch, 14, COLOURS[branch][1], bold=True))
            parts.append(_text(48, y + 14, "image, mask", 11, GREY))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'font-family="DejaVu Sans, system-ui, sans-serif"><title>{html.escape(title)}</title>\n'
        '<defs><marker id="end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{GREY}"/></marker></defs>\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="white"/>\n{body}\n</svg>\n'
    )


def _arrows(shapes: Mapping[str, tuple[int, ...]], lit: str) -> list[str]:
    """All arrows with the names and shapes of the tensors that travel along them."""
    drawn, y = [], ROWS["shared"]
    levels = [name for name in ("corr_query/l2", "corr_query/l3", "corr_query/l4") if name in shapes]
    drawn.append(_arrow((186, y), (262, y), (), lit == "correlation"))
    drawn.append(_arrow((366, y), (446, y), [(n, shapes[n]) for n in levels], lit in ("correlation", "encoder")))
    for branch, letter in BRANCH.items():
        row, after = ROWS[branch], f"after4d_{branch}"
        toward = row + (BOX / 2 if branch == "support" else -BOX / 2)
        edge = y + (-BOX / 2 if branch == "support" else BOX / 2)
        chain = [(part, name.format(letter)) for part, name in CHAIN if name.format(letter) in shapes]
        first = chain[0][0] if chain else "decoder"
        if first == "aggregation":
            drawn.append(_arrow((186, row), (446, row), (), lit == "aggregation"))
            drawn.append(
                _arrow((498, edge), (498, toward), [(after, shapes[after])], lit in ("encoder", "aggregation"))
            )
        else:
            drawn.append(_arrow((550, y), (PARTS[first][0], row), [(after, shapes[after])], lit in ("encoder", first)))
        for (part, name), following in zip(chain, [*chain[1:], ("decoder", "")]):
            start = PARTS[part][0] + PARTS[part][1]
            label = [(name, shapes[name])]
            drawn.append(_arrow((start, row), (PARTS[following[0]][0], row), label, lit in (part, following[0])))
        if "hc/text_merge" in shapes:
            name = f"hc/text_{'merge' if branch == 'query' else 'refine'}"
            drawn.append(_arrow((886, edge), (886, toward), [(name, shapes[name])], lit == "text"))
        logits = f"logits_{branch}"
        drawn.append(_arrow((1136, row), (1212, row), [(logits, shapes[logits])], lit == "decoder"))
    if "ot/q_plan" in shapes:
        bottom, top = ROWS["query"] - BOX / 2, ROWS["support"] + BOX / 2
        plan = [(n, shapes[n]) for n in ("attn/q_tokens", "ot/q_plan")]
        drawn.append(_arrow((692, top), (692, bottom), plan, lit == "transport", both=True))
    for branch in BRANCH:
        if f"prior/{branch}" in shapes:
            row = ROWS[branch] + (BOX / 2 if branch == "support" else -BOX / 2)
            prior = [(f"prior/{branch}", shapes[f"prior/{branch}"])]
            drawn.append(_arrow((1084, ROWS["shared"]), (1084, row), prior, lit == "decoder"))
    if "prior/query" in shapes:
        drawn.append(_text(1094, ROWS["shared"] + 4, "prototypes (ours)", 11, GREY, anchor="start"))
    return drawn


def _boxes(part: str, weights: Mapping[str, int], bright: bool) -> list[str]:
    x, width, rows, label, second = PARTS[part]
    if part == "backbone":
        places = [("shared", (ROWS["support"] + ROWS["query"]) / 2, ROWS["query"] - ROWS["support"] + BOX)]
    else:
        places = [(row, ROWS[row], BOX) for row in rows]
    drawn = []
    for row, y, height in places:
        fill, line = COLOURS[row] if bright else ("#FAFAFA", "#C8C8C8")
        ink = INK if bright else GREY
        words, below = WORDS.get(part, {}).get(row, (label, second))
        drawn.append(
            f'<rect x="{x}" y="{y - height / 2:g}" width="{width}" height="{height:g}" rx="8" fill="{fill}" '
            f'stroke="{line}" stroke-width="{2.5 if bright else 1.2}"/>'
        )
        lines = [(words, 14, True)] + [(piece, 10.5, False) for piece in _wrapped(below, 17)]
        if part in weights and row == ("shared" if "shared" in rows else "query"):
            lines.append((f"{weights[part]:,} weights", 10.5, False))
        elif part in weights:
            lines.append(("", 10.5, False) if part == "text" else ("the same weights", 10.5, False))
        top = y - 8 * (len(lines) - 1) + 5
        drawn += [_text(x + width / 2, top + 16 * i, t, s, ink, bold=b) for i, (t, s, b) in enumerate(lines)]
    return drawn


def _wrapped(words: str, length: int) -> list[str]:
    lines = [""]
    for word in words.split():
        if len(lines[-1]) + len(word) >= length and lines[-1]:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _arrow(start, end, labels, bright: bool, both: bool = False) -> str:
    """A straight arrow; labels (tensor name, shape) stand above a level one and beside an upright one."""
    upright = start[0] == end[0]
    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    marks = 'marker-end="url(#end)"' + (' marker-start="url(#end)"' if both else "")
    drawn = [
        f'<path d="M{start[0]} {start[1]:g}L{end[0]} {end[1]:g}" stroke="{INK if bright else GREY}" '
        f'stroke-width="{2.2 if bright else 1.3}" fill="none" {marks}/>'
    ]
    lines = [piece for name, shape in labels for piece in ((name, False), (_shape(shape), True))]
    wide = any(len(_shape(shape)) > 12 for _, shape in labels[1:])  # than the gap between boxes: they stand above these
    lift = BOX / 2 + 6 if wide else 8
    for i, (words, bold) in enumerate(lines):
        place = (
            (middle[0] + 8, middle[1] + 13 * (i - len(lines) / 2) + 10)
            if upright
            else (middle[0], middle[1] - lift - 12 * (len(lines) - 1 - i))
        )
        anchor = "start" if upright else "middle"
        drawn.append(_text(*place, words, 9.5, INK if bright or bold else GREY, bold=bold and bright, anchor=anchor))
    return "\n".join(drawn)


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _text(x, y, words, size, colour, bold: bool = False, anchor: str = "middle") -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}" text-anchor="{anchor}"{weight}>'
        f"{html.escape(words)}</text>"
    )


def main() -> int:
    """Command line: the folder that gets network.svg (ResNet-50 at 400 pixels) and network_mini.svg."""
    if len(sys.argv) != 2:
        print("usage: python -m tlg_lib.look.diagram OUT", file=sys.stderr)
        return 2
    for name, preset in (("network", "pascal"), ("network_mini", "mini")):
        with atomic(Path(sys.argv[1]) / f"{name}.svg", "w") as file:
            file.write(network_svg(make_config(preset)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
