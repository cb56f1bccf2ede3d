"""The executed notebooks of a run as small web pages: ``python -m tlg_lib.runs.docs runs/mini docs``.

Pictures keep their alternative texts and are stored beside the pages with few colours, which makes them about a
tenth of the size. Widgets need a kernel; on the page the static figure above each stands for it.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import html
import io
import re
import sys
from pathlib import Path

from ..errors import TLGError
from ..machine.paths import atomic

# A line such as "3/72 scored: ..." or "mini data: 120/1200 images, 6 s", where a line of the same count follows.
PROGRESS = re.compile(r"^.*?\b\d+/(\d+) (\w+)\b.*\n(?=.*?\b\d+/\1 \2\b)", re.MULTILINE)
ATTRIBUTES = {"*": {"class", "id"}, "a": {"href"}, "td": {"colspan", "rowspan"}, "th": {"colspan", "rowspan"}}
COLOURS, WIDEST = 128, 1000  # of a picture: palette entries, pixels
CODE = re.compile(r"(?s)(<pre\b.*?</pre>|<code\b.*?</code>)")
MATH = re.compile(r"(?s)\$\$(.+?)\$\$|\$([^$\n]+)\$")  # a formula of its own line, or one within a sentence
MARK = '<link rel="stylesheet" href="pages.css"></head>'  # every page made here has it
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>{mark}
<body><nav>{links}</nav><main>{body}</main></body></html>
"""
CSS = """body { font: 16px/1.55 system-ui, sans-serif; color: #222; margin: 0; background: #fff; }
main, nav { max-width: 56rem; margin: 0 auto; padding: 0 1rem; }
nav { padding-top: .8rem; font-size: 14px; border-bottom: 1px solid #e4e4e4; padding-bottom: .6rem; }
nav a { margin-right: .8rem; white-space: nowrap; } nav a[aria-current] { font-weight: bold; color: #222; }
a { color: #0072b2; } h1 { font-size: 1.8rem; } h2 { margin-top: 2rem; }
pre { background: #f6f6f6; padding: .6rem .8rem; overflow-x: auto; font-size: 13px; line-height: 1.45; }
.output pre { background: none; border-left: 3px solid #e4e4e4; } img { max-width: 100%; height: auto; }
math[display=block] { margin: 1rem 0; overflow-x: auto; overflow-y: hidden; padding: .2rem 0; }
math [mathvariant=bold] { font-weight: bold; } math [mathvariant=monospace] { font-family: monospace; }
table { border-collapse: collapse; font-size: 14px; } td, th { padding: .25rem .7rem; border-bottom: 1px solid #e4e4e4;
text-align: left; } .dataframe td, .dataframe th:not(:first-child) { text-align: right; }
.anchor-link { display: none; }
.widget { color: #767676; font-style: italic; }
details { background: #f6f6f6; padding: .4rem .8rem; } summary { cursor: pointer; }
"""


def build_docs(run: str | Path, out: str | Path) -> list[Path]:
    """Write a page per executed notebook of the run folder, its pictures and a style sheet into ``out``.

    Pages of an earlier call whose notebooks are gone are deleted, with the pictures that only they show; nothing
    else of ``out`` is touched. Returns the pages. Raises TLGError when the run holds no executed notebook, or one
    with a failed cell, and where a file that is not ours would be overwritten.
    """
    run, out = Path(run), Path(out)
    books = sorted(run.glob("[0-9][0-9]_*.ipynb"))
    if not books:
        raise TLGError(f"no executed notebooks in {run}: make them with `tlg run mini`", code=3)
    old = [page for page in out.glob("[0-9][0-9]_*.html") if MARK in page.read_text(encoding="utf-8", errors="replace")]
    for target in (out / "pages.css", *(out / f"{book.stem}.html" for book in books)):
        if target.exists() and not old or target.suffix == ".html" and target.exists() and target not in old:
            raise TLGError(f"{target} is no page that was made here: name another folder")
    shown = set().union(*map(_pictures, old))
    _write(out / "pages.css", CSS)
    pages = [_page(book, books, out) for book in books]
    for page in set(old) - set(pages):
        page.unlink()
    for picture in shown - set().union(*map(_pictures, pages)):
        (out / "pictures" / picture).unlink(missing_ok=True)
    return pages


def _pictures(page: Path) -> set[str]:
    """Names of the pictures of ours that a page shows."""
    return set(
        re.findall(r'src="pictures/([0-9a-f]{12}\.(?:png|svg))"', page.read_text(encoding="utf-8", errors="replace"))
    )


def _page(path: Path, books: list[Path], out: Path) -> Path:
    import nbformat

    try:
        book = nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises many kinds; each means that the file is no notebook
        raise TLGError(f"{path} is not a readable notebook ({type(error).__name__})", code=3) from None
    parts = [_cell(cell, path, out) for cell in book.cells]
    title = next((c.source.splitlines()[0].lstrip("# ") for c in book.cells if c.cell_type == "markdown"), path.stem)
    links = " ".join(
        f'<a href="{html.escape(b.stem)}.html"{" aria-current=page" if b == path else ""}>{html.escape(_short(b))}</a>'
        for b in books
    )
    body = "\n".join(filter(None, parts))
    target = out / f"{path.stem}.html"
    _write(target, PAGE.format(title=html.escape(title), mark=MARK, links=links, body=body))
    return target


def _short(path: Path) -> str:
    return f"{path.stem[:2]} {path.stem[3:].replace('_', ' ')}"


def _cell(cell, path: Path, out: Path) -> str:
    if cell.cell_type == "markdown":
        return _markdown(cell.source)
    outputs = "\n".join(filter(None, (_output(o, path, out) for o in _joined(cell.outputs))))
    if "injected-parameters" in cell.metadata.get("tags", []):
        return ""  # paths of the machine that ran it
    return f"<pre><code>{html.escape(cell.source)}</code></pre>" + (
        f'<div class="output">{outputs}</div>' if outputs else ""
    )


def _joined(outputs: list) -> list:
    """Outputs with neighbouring pieces of printed text joined, and only the last line of each count of progress."""
    joined: list = []
    for output in outputs:
        if joined and output.output_type == joined[-1].output_type == "stream" and output.name == joined[-1].name:
            joined[-1].text += output.text
        else:
            joined.append(copy.deepcopy(output))
    for output in joined:
        if output.output_type == "stream":
            output.text = PROGRESS.sub("", output.text)
    return joined


def _markdown(source: str) -> str:
    from nbconvert.filters import markdown2html

    parts = CODE.split(_clean(markdown2html(source)))
    text = "".join(part if i % 2 else MATH.sub(_mathml, part) for i, part in enumerate(parts))
    return re.sub(r'href="(\d\d_\w+)\.ipynb', r'href="\1.html', text)


def _clean(markup: str) -> str:
    """Text's and tables' tags only: no script, style, form, frame, handler or foreign address survives."""
    import nh3

    return nh3.clean(markup, attributes=ATTRIBUTES, url_schemes={"http", "https", "mailto"}, link_rel=None)


def _mathml(found: re.Match) -> str:
    """A formula as MathML, which browsers draw by themselves, also without a network."""
    from latex2mathml.converter import convert

    source = html.unescape(found[1] or found[2]).strip()
    drawn = convert(source, display="block" if found[1] else "inline")
    if unknown := re.search(r"\\\w+", drawn):
        raise TLGError(
            f"the formula '{source}' holds {unknown[0]}, which cannot be drawn on a page: write it otherwise"
        )
    return drawn


def _output(output, path: Path, out: Path) -> str:
    if output.output_type == "error":
        raise TLGError(f"{path}: a cell failed ({output.ename}): run the notebook again before making pages", code=3)
    if output.output_type == "stream":
        return f"<pre>{html.escape(output.text)}</pre>" if output.name == "stdout" else ""
    data = output.data
    if "application/vnd.jupyter.widget-view+json" in data:
        return '<p class="widget">Here stands a widget when the notebook runs.</p>'
    if "image/png" in data:
        alt = output.metadata.get("image/png", {}).get("alt") or output.metadata.get("alt", "")
        return f'<p><img src="pictures/{_picture(data["image/png"], out)}" alt="{html.escape(alt, quote=True)}"></p>'
    if "image/svg+xml" in data:
        drawing = "".join(data["image/svg+xml"])
        name = f"{hashlib.sha256(drawing.encode()).hexdigest()[:12]}.svg"
        _write(out / "pictures" / name, drawing)
        alt = html.escape("".join(data.get("text/plain", "")), quote=True)
        return f'<p><img src="pictures/{name}" alt="{alt}"></p>'
    if "text/markdown" in data:
        return _markdown("".join(data["text/markdown"]))
    if "text/html" in data:
        return _clean("".join(data["text/html"]))
    return f"<pre>{html.escape(''.join(data.get('text/plain', '')))}</pre>"


def _picture(encoded: str, out: Path) -> str:
    """Store a base64 PNG with a palette and no wider than WIDEST; returns its name, a hash of the original."""
    from PIL import Image

    raw = base64.b64decode(encoded)
    name = f"{hashlib.sha256(raw).hexdigest()[:12]}.png"
    try:
        image = Image.open(io.BytesIO(raw)).convert("RGB")
    except Exception as error:  # Pillow raises many kinds for broken pictures
        raise TLGError(f"a picture of a notebook cannot be read ({error}): run the notebook again", code=3) from None
    if image.width > WIDEST:
        image = image.resize((WIDEST, round(image.height * WIDEST / image.width)), Image.Resampling.LANCZOS)
    small = image.quantize(COLOURS, dither=Image.Dither.NONE)
    with atomic(out / "pictures" / name) as file:
        small.save(file, "PNG", optimize=True)
    return name


def _write(path: Path, text: str) -> None:
    with atomic(path, "w") as file:
        file.write(text)


def main() -> int:
    """Command line: the run folder and the folder of the pages."""
    if len(sys.argv) != 3:
        print("usage: python -m tlg_lib.runs.docs RUN OUT", file=sys.stderr)
        return 2
    try:
        pages = build_docs(sys.argv[1], sys.argv[2])
    except TLGError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    size = sum(p.stat().st_size for p in Path(sys.argv[2]).rglob("*") if p.is_file())
    print(f"{len(pages)} pages in {sys.argv[2]}, {size / 2**20:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
