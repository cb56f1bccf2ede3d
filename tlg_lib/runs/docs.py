"""The executed notebooks of a run as small web pages: ``python -m tlg_lib.runs.docs runs/mini docs``.

Pictures keep all their colours (WebP) and their alternative texts, which stand below them as captions. Widgets need a
kernel; where a notebook computed their pictures beforehand (look/grids.py), the page has sliders that choose among
them, by a script of a few lines. Every page has a table of contents and leads to its neighbours; index.html to all.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import html
import io
import json
import re
import sys
from pathlib import Path

from ..errors import TLGError
from ..look.grids import MIME
from ..machine.paths import atomic

# A line such as "3/72 scored: ..." or "mini data: 120/1200 images, 6 s", where a line of the same count follows.
PROGRESS = re.compile(r"^.*?\b\d+/(\d+) (\w+)\b.*\n(?=.*?\b\d+/\1 \2\b)", re.MULTILINE)
ATTRIBUTES = {"*": {"class", "id"}, "a": {"href"}, "td": {"colspan", "rowspan"}, "th": {"colspan", "rowspan"}}
WIDEST, QUALITY, LARGE = 1000, 88, 70_000  # of a picture: pixels, lossy quality, bytes from which it is lossy
CODE = re.compile(r"(?s)(<pre\b.*?</pre>|<code\b.*?</code>)")
MATH = re.compile(r"(?s)\$\$(.+?)\$\$|\$([^$\n]+)\$")  # a formula of its own line, or one within a sentence
SHOWN = 190  # pixels of a picture of a grid on a wide screen
MARK = '<link rel="stylesheet" href="pages.css"></head>'  # every page made here has it
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>{mark}
<body><nav class="books" aria-label="notebooks">{links}</nav>{contents}<main>{body}</main>{ends}{script}</body></html>
"""
CSS = """:root { --ink: #222; --line: #e4e4e4; --pale: #f6f6f6; --link: #0072b2; }
* { box-sizing: border-box; }
body { font: 16px/1.6 system-ui, sans-serif; color: var(--ink); margin: 0; background: #fff; }
main { overflow-wrap: break-word; }
main, nav { max-width: 63rem; margin: 0 auto; padding: 0 1rem; } main p, main li { max-width: 54rem; }
.books { padding: .8rem 1rem .6rem; font-size: 14px; border-bottom: 1px solid var(--line); }
.books a { margin-right: .8rem; white-space: nowrap; } .books a[aria-current] { font-weight: bold; color: var(--ink); }
.contents { font-size: 14px; padding: .6rem 1rem; max-width: 61rem; margin: .6rem auto; }
.contents ul { margin: .3rem 0; padding-left: 1.4rem; }
.ends { display: flex; justify-content: space-between; gap: 1rem; padding: 1.5rem 1rem 3rem; }
a { color: var(--link); } h1 { font-size: 1.8rem; line-height: 1.25; } h2 { margin-top: 2.2rem; }
h2, h3 { scroll-margin-top: 1rem; }
pre { background: var(--pale); padding: .6rem .8rem; overflow-x: auto; font-size: 13px; line-height: 1.45; }
.output pre { background: none; border-left: 3px solid var(--line); }
@media (min-width: 60rem) { .output pre { white-space: pre-wrap; } }
figure { margin: 1rem 0; } figure img { display: block; max-width: 100%; height: auto; }
figcaption { color: #5a5a5a; font-size: 14px; line-height: 1.4; margin-top: .3rem; }
.wide { overflow-x: auto; }
math[display=block] { margin: 1rem 0; overflow-x: auto; overflow-y: hidden; padding: .2rem 0; }
math [mathvariant=bold] { font-weight: bold; } math [mathvariant=monospace] { font-family: monospace; }
table { border-collapse: collapse; font-size: 14px; } td, th { padding: .25rem .7rem;
border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
.dataframe td, .dataframe th:not(:first-child) { text-align: right; }
.anchor-link { display: none; } .widget { color: #6a6a6a; font-style: italic; }
details { background: var(--pale); padding: .4rem .8rem; margin: .6rem 0; } summary { cursor: pointer; }
.grid { border: 1px solid var(--line); border-radius: 6px; padding: .8rem; }
.grid .frame { background-size: 100% auto; max-width: 100%; } .grid[data-pick] .frame { cursor: crosshair; }
.grid label { display: grid; grid-template-columns: 11rem 1fr 9rem; gap: .6rem; align-items: center; font-size: 14px; }
.grid output { font-weight: bold; } .grid input { width: 100%; }
.card { display: grid; grid-template-columns: 11rem 1fr; gap: 1rem; padding: 1rem 0;
border-bottom: 1px solid var(--line); }
.card h2 { margin: 0 0 .3rem; font-size: 1.15rem; } .card p { margin: 0; } .card img { width: 100%; }
@media (min-width: 90rem) { .contents { position: fixed; left: max(1rem, calc(50% - 45rem)); top: 4rem; width: 13rem;
max-height: calc(100vh - 5rem); overflow-y: auto; } .contents > summary { font-weight: bold; } }
@media (max-width: 40rem) { body { font-size: 15px; } main, nav { padding-left: .8rem; padding-right: .8rem; }
.books { white-space: nowrap; overflow-x: auto; } .card { grid-template-columns: 1fr; }
.grid label { grid-template-columns: 1fr; gap: 0; } pre { font-size: 12px; }
main table { font-size: 13px; display: block; max-width: 100%; overflow-x: auto; } }
@media print { nav, .contents, .ends, .grid label { display: none; } body { font-size: 11pt; }
pre, figure, tr { break-inside: avoid; } h2 { break-after: avoid; } pre { white-space: pre-wrap; }
details:not([open]) > *:not(summary) { display: revert; } a { color: inherit; } main { max-width: none; } }
"""
# One script for all grids of a page: sliders choose a frame of the image; a click on its first picture chooses a cell.
SCRIPT = """<script>
for (const grid of document.querySelectorAll(".grid")) {
  const frame = grid.querySelector(".frame"), inputs = [...grid.querySelectorAll("input")];
  const axes = JSON.parse(grid.dataset.axes), captions = JSON.parse(grid.dataset.captions);
  const show = () => {
    let index = 0;
    inputs.forEach((input, i) => {
      index = index * axes[i].length + Number(input.value);
      input.nextElementSibling.textContent = axes[i][input.value];
      input.setAttribute("aria-valuetext", axes[i][input.value]);
    });
    frame.style.backgroundPosition = `0 ${captions.length > 1 ? 100 * index / (captions.length - 1) : 0}%`;
    grid.querySelector(".told").textContent = captions[index];
  };
  inputs.forEach((input) => input.addEventListener("input", show));
  frame.addEventListener("click", (event) => {
    const box = frame.getBoundingClientRect(), side = box.width / Number(grid.dataset.panels);
    const place = { row: (event.clientY - box.top) / box.height, column: (event.clientX - box.left) / side };
    if (grid.dataset.pick === undefined || place.column >= 1) return;
    inputs.forEach((input) => {
      if (input.name in place) input.value = Math.floor(place[input.name] * (Number(input.max) + 1));
    });
    show();
  });
  show();
}
</script>"""


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
    there = [*out.glob("[0-9][0-9]_*.html"), *out.glob("index.html")]
    old = [page for page in there if MARK in page.read_text(encoding="utf-8", errors="replace")]
    for target in (out / "pages.css", out / "index.html", *(out / f"{book.stem}.html" for book in books)):
        if target.exists() and not old or target.suffix == ".html" and target.exists() and target not in old:
            raise TLGError(f"{target} is no page that was made here: name another folder")
    shown = set().union(*map(_pictures, old))
    _write(out / "pages.css", CSS + _code_colours())
    pages = [_page(book, books, out) for book in books]
    pages.append(_index(pages, out))
    for page in set(old) - set(pages):
        page.unlink()
    for picture in shown - set().union(*map(_pictures, pages)):
        (out / "pictures" / picture).unlink(missing_ok=True)
    return pages


def _pictures(page: Path) -> set[str]:
    """Names of the pictures of ours that a page shows."""
    return set(
        re.findall(
            r'(?:src="|url\()pictures/([0-9a-f]{12}\.(?:png|svg|webp))[")]',
            page.read_text(encoding="utf-8", errors="replace"),
        )
    )


def _page(path: Path, books: list[Path], out: Path) -> Path:
    import nbformat

    try:
        book = nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises many kinds; each means that the file is no notebook
        raise TLGError(f"{path} is not a readable notebook ({type(error).__name__})", code=3) from None
    body = "\n".join(filter(None, (_cell(cell, path, out) for cell in book.cells)))
    title = next((c.source.splitlines()[0].lstrip("# ") for c in book.cells if c.cell_type == "markdown"), path.stem)
    links = '<a href="index.html">all</a> ' + " ".join(
        f'<a href="{html.escape(b.stem)}.html"{" aria-current=page" if b == path else ""}>{html.escape(_short(b))}</a>'
        for b in books
    )
    place = books.index(path)
    ends = [
        f'<a rel="{rel}" href="{html.escape(b.stem)}.html">{arrow[0]}{html.escape(_short(b))}{arrow[1]}</a>'
        for b, rel, arrow in (
            (books[place - 1] if place else None, "prev", ("\u2190 ", "")),
            (books[place + 1] if place + 1 < len(books) else None, "next", ("", " \u2192")),
        )
        if b is not None
    ]
    target = out / f"{path.stem}.html"
    page = PAGE.format(
        title=html.escape(title),
        mark=MARK,
        links=links,
        contents=_contents(body),
        body=body,
        ends=f'<nav class="ends" aria-label="neighbours">{"".join(ends)}</nav>' if ends else "",
        script=SCRIPT if '<figure class="grid"' in body else "",
    )
    _write(target, page)
    return target


def _contents(body: str) -> str:
    """A list of the page's sections, folded out; "" where there are fewer than two."""
    heads = re.findall(r'<h2 id="([^"]+)">(.*?)</h2>', body, re.S)
    if len(heads) < 2:
        return ""
    items = "".join(f'<li><a href="#{name}">{_bare(text)}</a></li>' for name, text in heads)
    return f'<details class="contents" open><summary>On this page</summary><ul>{items}</ul></details>'


def _bare(markup: str) -> str:
    """The text of some markup, without its tags and the sign of its anchor."""
    return re.sub(r"<[^>]+>|\u00b6", "", re.sub(r'(?s)<a class="anchor-link".*?</a>', "", markup)).strip()


def _index(pages: list[Path], out: Path) -> Path:
    """One card per page: its title, what one learns there, and its first picture."""
    cards = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        title = _bare((re.search(r"<title>(.*?)</title>", text, re.S) or ["", page.stem])[1])
        learn = re.search(r"<p><strong>You will learn</strong>(.*?)</p>", text, re.S)
        picture = re.search(r'<img src="(pictures/[0-9a-f]{12}\.webp)"', text)
        shown = f'<img src="{picture[1]}" alt="" loading="lazy">' if picture else ""
        cards.append(
            f'<div class="card"><div>{shown}</div><div><h2><a href="{page.name}">{title}</a></h2>'
            f"<p>You will learn {_bare(learn[1]) if learn else 'more'}</p></div></div>"
        )
    body = "<h1>Through the looking glass, step by step</h1>" + "".join(cards)
    links = "".join(f'<a href="{page.name}">{page.stem[:2]}</a>' for page in pages)
    page = PAGE.format(title="Notebooks", mark=MARK, links=links, contents="", body=body, ends="", script="")
    _write(out / "index.html", page)
    return out / "index.html"


def _short(path: Path) -> str:
    return f"{path.stem[:2]} {path.stem[3:].replace('_', ' ')}"


def _cell(cell, path: Path, out: Path) -> str:
    if cell.cell_type == "markdown":
        return _markdown(cell.source)
    outputs = "\n".join(filter(None, (_output(o, path, out) for o in _joined(cell.outputs))))
    if "injected-parameters" in cell.metadata.get("tags", []):
        return ""  # paths of the machine that ran it
    return _coloured(cell.source) + (f'<div class="output">{outputs}</div>' if outputs else "")


def _coloured(source: str) -> str:
    """Python with its syntax in colours, as classes of pages.css."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    coloured = highlight(source, PythonLexer(), HtmlFormatter(nowrap=True)).rstrip()
    return f'<pre class="highlight"><code>{coloured}</code></pre>'


def _code_colours() -> str:
    from pygments.formatters import HtmlFormatter

    rules = HtmlFormatter(style="friendly").get_style_defs(".highlight").splitlines()
    return "\n".join(rule for rule in rules if rule.startswith(".highlight .")) + "\n"


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
    if MIME in data:
        return _grid(data[MIME], path, out)
    if "application/vnd.jupyter.widget-view+json" in data and "image/png" not in data:
        return '<p class="widget">Here stands a widget when the notebook runs.</p>'
    if "image/png" in data:
        alt = output.metadata.get("image/png", {}).get("alt") or output.metadata.get("alt", "")
        return _figure(_picture(data["image/png"], out), alt)
    if "image/svg+xml" in data:
        drawing = "".join(data["image/svg+xml"])
        name = f"{hashlib.sha256(drawing.encode()).hexdigest()[:12]}.svg"
        _write(out / "pictures" / name, drawing)
        return _figure(name, "".join(data.get("text/plain", "")))
    if "text/markdown" in data:
        return _markdown("".join(data["text/markdown"]))
    if "text/html" in data:
        return f'<div class="wide">{_clean("".join(data["text/html"]))}</div>'
    return f"<pre>{html.escape(''.join(data.get('text/plain', '')))}</pre>"


def _figure(name: str, alt: str) -> str:
    """A picture, its description below it for everybody; a screen reader hears it once."""
    text = html.escape(alt, quote=True)
    caption = f'<figcaption aria-hidden="true">{text}</figcaption>' if text else ""
    return f'<figure><img src="pictures/{name}" alt="{text}" loading="lazy">{caption}</figure>'


def _picture(encoded: str, out: Path) -> str:
    """Store a base64 picture as WebP, no wider than WIDEST, all colours; returns its name, a hash of the original.

    Charts are small without loss; pictures of photographs, which are not, are stored at QUALITY.
    """
    from PIL import Image

    raw, image = _opened(encoded)
    name = f"{hashlib.sha256(raw).hexdigest()[:12]}.webp"
    if image.width > WIDEST:
        image = image.resize((WIDEST, round(image.height * WIDEST / image.width)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True, method=4)
    if buffer.tell() > LARGE:
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=QUALITY, method=4)
    with atomic(out / "pictures" / name) as file:
        file.write(buffer.getvalue())
    return name


def _opened(encoded: str):
    """(bytes, RGB image) of a base64 picture. Raises TLGError for what is none."""
    from PIL import Image

    try:
        raw = base64.b64decode(encoded)
        return raw, Image.open(io.BytesIO(raw)).convert("RGB")
    except Exception as error:  # Pillow raises many kinds for broken pictures
        raise TLGError(f"a picture of a notebook cannot be read ({error}): run the notebook again", code=3) from None


def _grid(grid: dict, path: Path, out: Path) -> str:
    """Sliders over the pictures that a widget computed beforehand (look/grids.py)."""
    try:
        encoded, panels = str(grid["sprite"]), int(grid["panels"])
        axes = [(str(a["label"]), [str(t) for t in a["texts"]], int(a["start"])) for a in grid["axes"]]
        captions, alt = [_plain(str(c)) for c in grid["captions"]], str(grid["alt"])
    except (KeyError, TypeError, ValueError) as error:
        raise TLGError(f"{path}: a grid of a widget is incomplete ({error}): run the notebook again", code=3) from None
    raw, _ = _opened(encoded)
    name = f"{hashlib.sha256(raw).hexdigest()[:12]}.webp"
    with atomic(out / "pictures" / name) as file:
        file.write(raw)
    rows = "".join(
        f'<label>{html.escape(label)} <input type="range" name="{html.escape(label, quote=True)}" min="0" '
        f'max="{len(texts) - 1}" value="{start}"><output></output></label>'
        for label, texts, start in axes
    )
    kept = {"axes": json.dumps([texts for _, texts, _ in axes]), "captions": json.dumps(captions)}
    kept["panels"] = str(panels)
    kept |= {"pick": ""} if {"row", "column"} <= {label for label, _, _ in axes} else {}
    attributes = "".join(f' data-{key}="{html.escape(value, quote=True)}"' for key, value in kept.items())
    return (
        f'<figure class="grid"{attributes}><div class="frame" role="img" aria-label="{html.escape(alt, quote=True)}" '
        f'style="aspect-ratio:{panels};max-width:{panels * SHOWN}px;background-image:url(pictures/{name})"></div>{rows}'
        f'<figcaption class="told" aria-live="polite">{html.escape(alt)}</figcaption></figure>'
    )


def _plain(markup: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", markup))


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
