"""Pages from executed notebooks: texts, pictures with descriptions, no machine's paths, refused failures."""

import base64
import io
import re
import subprocess
import sys

import nbformat
import numpy as np
import pytest
from PIL import Image

from tlg_lib.errors import TLGError
from tlg_lib.machine.paths import PACKAGE
from tlg_lib.runs.docs import COLOURS, _markdown, build_docs

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
    assert [p.name for p in pages] == ["03_parts.html", "04_more.html"]
    assert "<pre>True &amp; so on\n3/3 scored: c\n</pre>" in page, "pieces joined, progress at its end"
    assert 'href="04_more.html">04</a>' in page and "<summary>Solution</summary>" in page
    assert "print(1 &lt; 2)" in page and "True &amp; so on" in page and "<td>7</td>" in page
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


def test_pictures_are_small_and_described(run, tmp_path):
    page = build_docs(run, tmp_path / "docs")[0].read_text(encoding="utf-8")
    source, alt = re.search(r'<img src="([^"]+)" alt="([^"]+)"', page).groups()
    picture = Image.open(tmp_path / "docs" / source)
    assert picture.width == 1000 and len(picture.getcolors()) <= COLOURS
    assert alt == "a &quot;noisy&quot; strip"


def test_building_again_gives_the_same_files_and_drops_old_ones(run, tmp_path):
    build_docs(run, tmp_path / "docs")
    first = {p.name: p.read_bytes() for p in (tmp_path / "docs").rglob("*.*")}
    (tmp_path / "docs" / "05_gone.html").write_text("old")
    (tmp_path / "docs" / "kept.md").write_text("not ours")
    build_docs(run, tmp_path / "docs")
    again = {p.name: p.read_bytes() for p in (tmp_path / "docs").rglob("*.*")}
    assert again == {**first, "kept.md": b"not ours"}


def test_the_pages_in_docs_have_their_pictures_and_no_others():
    docs = PACKAGE.parent / "docs"
    named = {name for page in docs.glob("*.html") for name in re.findall(r'pictures/([^"]+)"', page.read_text("utf-8"))}
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
