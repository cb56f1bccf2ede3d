"""Pages from executed notebooks: texts, pictures with descriptions, no machine's paths, refused failures."""

import base64
import html
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import nbformat
import numpy as np
import pytest
from PIL import Image

from tlg_lib.errors import TLGError
from tlg_lib.look.grids import MIME
from tlg_lib.machine.paths import PACKAGE
from tlg_lib.runs.docs import _markdown, build_docs

V4 = nbformat.v4


def encoded(width=1400, height=200):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture
def run(tmp_path):
    picture = V4.new_output(
        "display_data",
        {"image/png": encoded(), "text/plain": "<Image>"},
        metadata={"image/png": {"alt": 'a "noisy" strip'}},
    )
    widget = V4.new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "Box()"})
    frame = V4.new_output(
        "execute_result", {"text/html": "<style>.x{}</style><table><tr><td>7</td></tr></table>"}, execution_count=3
    )
    cells = [
        V4.new_markdown_cell(
            "# 03 · Parts\n\nSee [04](04_more.ipynb). $a<b$ but `x$y$`\n\n"
            "<details><summary>Solution</summary>yes</details>"
        ),
        V4.new_code_cell('out = "/secret/place"', metadata={"tags": ["injected-parameters"]}),
        V4.new_code_cell(
            "print(1 < 2)",
            outputs=[
                V4.new_output("stream", name="stdout", text="True & so on\n1/3 scored: a (1 s)\n"),
                V4.new_output("stream", name="stdout", text="2/3 scored: b\n3/3 scored: c\n"),
                V4.new_output("stream", name="stderr", text="noise"),
            ],
        ),
        V4.new_code_cell("show()", outputs=[picture, widget, frame]),
    ]
    nbformat.write(V4.new_notebook(cells=cells), tmp_path / "03_parts.ipynb")
    nbformat.write(V4.new_notebook(cells=[V4.new_markdown_cell("# 04 · More")]), tmp_path / "04_more.ipynb")
    return tmp_path


def test_a_page_holds_what_the_notebook_showed(run, tmp_path):
    pages = build_docs(run, tmp_path / "docs")
    page = pages[0].read_text(encoding="utf-8")
    assert [p.name for p in pages] == ["03_parts.html", "04_more.html", "index.html"]
    assert "<pre>True &amp; so on\n3/3 scored: c\n</pre>" in page, "pieces joined, progress at its end"
    assert 'href="04_more.html">04</a>' in page and "<summary>Solution</summary>" in page
    assert _text(page, "pre") == "print(1 < 2)" and "True &amp; so on" in page and "<td>7</td>" in page
    assert "Here stands a widget" in page and "Box()" not in page
    assert "/secret/place" not in page and "noise" not in page and "<style>" not in page
    assert "<mi>a</mi><mo>&#x0003C;</mo><mi>b</mi></mrow></math>" in page and "$a" not in page
    assert "<code>x$y$</code>" in page, "no formula inside of code"


@pytest.mark.parametrize("book", sorted((PACKAGE.parent / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_every_formula_of_the_notebooks_can_be_drawn(book):
    for cell in nbformat.read(book, as_version=4).cells:
        if cell.cell_type == "markdown":
            page = re.sub(r"(?s)<pre\b.*?</pre>|<code\b.*?</code>|<math.*?</math>", "", _markdown(cell.source))
            assert "$" not in page and "\\" not in page


def test_a_formula_that_cannot_be_drawn_is_named():
    with pytest.raises(TLGError, match=r"\\nosuchthing"):
        _markdown(r"so $a \nosuchthing b$")


def _text(page, tag):
    """The text of the first code cell, its colours taken away."""
    return html.unescape(re.sub("<[^>]+>", "", re.search(rf'(?s)<{tag} class="highlight">(.*?)</{tag}>', page)[1]))


def test_code_has_its_syntax_in_colours_and_pages_lead_to_their_neighbours(run, tmp_path):
    first, second, index = (p.read_text("utf-8") for p in build_docs(run, tmp_path / "docs"))
    assert '<span class="nb">print</span>' in first
    assert ".highlight .nb" in (tmp_path / "docs" / "pages.css").read_text()
    assert 'rel="next" href="04_more.html"' in first and 'rel="prev"' not in first
    assert 'rel="prev" href="03_parts.html"' in second and 'rel="next"' not in second
    assert '<a href="03_parts.html">03 · Parts</a>' in index and "You will learn" in index


def test_sections_are_listed(run, tmp_path):
    cells = [V4.new_markdown_cell("# 05\n\n## One & two\n\na\n\n## Three\n\nb")]
    nbformat.write(V4.new_notebook(cells=cells), run / "05_heads.ipynb")
    page = build_docs(run, tmp_path / "docs")[2].read_text("utf-8")
    names = re.findall(r'<li><a href="#([^"]+)">(.*?)</a>', page)
    assert [text for _, text in names] == ["One &amp; two", "Three"]
    assert all(f'id="{name}"' in page for name, _ in names)


def test_pictures_keep_their_colours_and_have_visible_captions(run, tmp_path):
    page = build_docs(run, tmp_path / "docs")[0].read_text(encoding="utf-8")
    source, alt = re.search(r'<img src="([^"]+)" alt="([^"]+)"', page).groups()
    picture = Image.open(tmp_path / "docs" / source)
    assert picture.format == "WEBP" and picture.width == 1000
    assert len(set(picture.convert("RGB").getdata())) > 10_000
    assert alt == "a &quot;noisy&quot; strip" and f'<figcaption aria-hidden="true">{alt}</figcaption>' in page


def test_a_chart_keeps_its_exact_colours(run, tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200), (0, 114, 178)).save(buffer, "PNG")
    chart = V4.new_output("display_data", {"image/png": base64.b64encode(buffer.getvalue()).decode()})
    nbformat.write(V4.new_notebook(cells=[V4.new_code_cell("x", outputs=[chart])]), run / "05_chart.ipynb")
    page = build_docs(run, tmp_path / "docs")[2].read_text("utf-8")
    picture = Image.open(tmp_path / "docs" / re.search(r'<img src="([^"]+)"', page)[1])
    assert set(picture.convert("RGB").getdata()) == {(0, 114, 178)}


def grid(**changes):
    buffer = io.BytesIO()
    Image.new("RGB", (128, 512)).save(buffer, "WEBP")
    axes = [{"label": name, "texts": ["0", "1<2"], "start": 1} for name in ("row", "column")]
    captions = ["a", "<b>b</b> &amp;", "c", "d"]
    sprite = base64.b64encode(buffer.getvalue()).decode()
    return {"sprite": sprite, "panels": 1, "axes": axes, "captions": captions, "alt": "what", **changes}


def with_grid(run, tmp_path, found):
    widget = {"application/vnd.jupyter.widget-view+json": {}, MIME: found, "text/plain": "Box()"}
    output = V4.new_output("display_data", widget)
    nbformat.write(V4.new_notebook(cells=[V4.new_code_cell("x", outputs=[output])]), run / "05_grid.ipynb")
    return build_docs(run, tmp_path / "docs")[2].read_text("utf-8")


def test_a_widget_with_a_grid_has_sliders_and_one_script(run, tmp_path):
    page = with_grid(run, tmp_path, grid())
    assert page.count("<script>") == 1 and page.count('type="range"') == 2 and "data-pick" in page
    data = html.unescape(re.search(r'data-axes="([^"]*)"', page)[1])
    assert json.loads(data) == [["0", "1<2"]] * 2
    assert json.loads(html.unescape(re.search(r'data-captions="([^"]*)"', page)[1])) == ["a", "b &", "c", "d"]
    sprite = re.search(r"url\((pictures/[0-9a-f]{12}\.webp)\)", page)[1]
    assert (tmp_path / "docs" / sprite).is_file()
    assert "<script>" not in (tmp_path / "docs" / "03_parts.html").read_text("utf-8")
    with_grid(run, tmp_path, grid(sprite=grid()["sprite"], alt="other"))
    assert (tmp_path / "docs" / sprite).is_file(), "a picture in use is not cleared away"


@pytest.mark.parametrize("evil", ['"><script>alert(1)</script>', "<img src=x onerror=alert(1)>", "' onclick='x"])
def test_no_word_of_a_grid_does_anything(run, tmp_path, evil):
    axes = [{"label": evil, "texts": [evil] * 4, "start": 0}]
    page = with_grid(run, tmp_path, grid(axes=axes, alt=evil, captions=[evil] * 4))
    found = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attributes):
            found.append((tag, [name for name, _ in attributes]))

    Reader().feed(page[: page.index("<script>\nfor (const grid")])
    assert ("div", ["class", "role", "aria-label", "style"]) in found
    assert not any(tag in ("script", "img") or name.startswith("on") for tag, names in found for name in names or [""])


def test_a_broken_grid_is_refused(run, tmp_path):
    with pytest.raises(TLGError, match="05_grid.*incomplete"):
        with_grid(run, tmp_path, {"sprite": "x"})
    with pytest.raises(TLGError, match="cannot be read"):
        with_grid(run, tmp_path, grid(sprite="bm8="))


def test_building_again_gives_the_same_files_and_drops_old_ones(run, tmp_path):
    build_docs(run, tmp_path / "docs")
    first = {p.name: p.read_bytes() for p in (tmp_path / "docs").rglob("*.*")}
    page = (tmp_path / "docs" / "03_parts.html").read_text()
    (tmp_path / "docs" / "05_gone.html").write_text(page.replace(re.search(r"[0-9a-f]{12}", page)[0], "0123456789ab"))
    (tmp_path / "docs" / "pictures" / "0123456789ab.webp").write_bytes(b"shown by no page any more")
    theirs = {"kept.md": b"1", "07_mine.html": b"<h1>mine</h1>", "holiday.png": b"2", "ffffffffffff.png": b"3"}
    for name, content in theirs.items():
        folder = tmp_path / "docs" / ("pictures" if name.endswith(".png") else "")
        (folder / name).write_bytes(content)
    build_docs(run, tmp_path / "docs")
    again = {p.name: p.read_bytes() for p in (tmp_path / "docs").rglob("*.*")}
    assert again == {**first, **theirs}


@pytest.mark.parametrize("name", ["pages.css", "04_more.html"])
def test_a_file_of_somebody_else_is_not_overwritten(run, tmp_path, name):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / name).write_text("mine")
    with pytest.raises(TLGError, match=f"{name} is no page that was made here"):
        build_docs(run, tmp_path / "docs")
    assert (tmp_path / "docs" / name).read_text() == "mine"


@pytest.mark.parametrize(
    "evil",
    [
        "<script>alert(1)</script>",
        "<SCRIPT/x>alert(1)</SCRIPT >",
        '<img src=x onerror="alert(1)">',
        '<a href="javascript:alert(1)">x</a>',
        "<iframe src='//evil'></iframe>",
        '<svg><style><img src="</style><img src=x onerror=alert(1)>">',
        '<td onclick="alert(1)" style="background:url(//evil)">7</td>',
        "<base href='//evil'><form action='//evil'><input>",
    ],
)
def test_no_markup_of_a_cell_or_a_text_does_anything(run, tmp_path, evil):
    frame = V4.new_output("execute_result", {"text/html": evil}, execution_count=1)
    cells = [V4.new_markdown_cell(f"# T\n\n{evil}\n"), V4.new_code_cell("x", outputs=[frame])]
    nbformat.write(V4.new_notebook(cells=cells), run / "05_evil.ipynb")
    page = build_docs(run, tmp_path / "docs")[2].read_text(encoding="utf-8")
    assert not re.search(r"(?i)<(script|iframe|form|base|svg)|<[^>]*(\bon\w+=|javascript:|//evil)", page), page


def test_the_pages_in_docs_have_their_pictures_and_no_others():
    docs = PACKAGE.parent / "docs"
    named = {
        name for page in docs.glob("*.html") for name in re.findall(r'pictures/([^")]+)[")]', page.read_text("utf-8"))
    }
    assert named and named == {path.name for path in (docs / "pictures").iterdir()}


def test_a_failed_cell_and_an_empty_folder_are_refused(run, tmp_path):
    error = V4.new_output("error", ename="ValueError", evalue="x", traceback=[])
    nbformat.write(V4.new_notebook(cells=[V4.new_code_cell("x", outputs=[error])]), run / "05_bad.ipynb")
    with pytest.raises(TLGError, match="05_bad.*ValueError"):
        build_docs(run, tmp_path / "docs")
    done = subprocess.run(
        [sys.executable, "-m", "tlg_lib.runs.docs", str(tmp_path / "docs"), str(tmp_path / "x")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3 and done.stderr.startswith("error: no executed notebooks in")
