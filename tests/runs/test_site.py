"""`make site`: every page is reached, the API and the notebooks are searched, and a reader fetches nothing."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import script

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("material", reason="pip install -e '.[site]'")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", out]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def test_every_page_of_docs_and_every_module_of_the_core_is_in_the_navigation(site):
    linked = set(re.findall(r'href="([^"#]+\.html)"', (site / "index.html").read_text()))
    pages = {path.with_suffix(".html").name for path in (ROOT / "docs").glob("*") if path.suffix in (".md", ".html")}
    modules = {f"reference/{path.stem}.html" for path in (ROOT / "tlg_lib").glob("[a-z]*.py")} - {"reference/cli.html"}
    assert len(pages) > 15 and len(modules) > 15 and not (pages | modules) - linked
    assert "def sinkhorn_plan" in re.sub("<[^>]*>", "", (site / "reference/transport.html").read_text())


def test_search_knows_notebooks_and_docstrings(site):
    index = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    texts = {entry["location"]: f"{entry['title']} {entry['text']}" for entry in index}
    assert any(place.startswith("04_heterogeneous_transport.html#") and "transport" in t for place, t in texts.items())
    assert any(place.startswith("reference/metrics.html") and "mIoU" in text for place, text in texts.items())


def test_nothing_is_fetched_from_elsewhere(site):
    class Fetched(HTMLParser):
        def handle_starttag(self, tag, attributes):
            given = dict(attributes)
            if tag in ("script", "img", "iframe") or (
                tag == "link" and given.get("rel") in ("stylesheet", "preconnect")
            ):
                found.append(given.get("src") or given.get("href") or "")

    found = []
    for page in site.rglob("*.html"):
        Fetched().feed(page.read_text())
    assert len(found) > 50 and not [address for address in found if re.match("(https?:)?//", address)]


def test_the_start_page_opens_the_first_notebook_in_a_browser_where_the_address_is_known(tmp_path, monkeypatch):
    pytest.importorskip("material", reason="pip install -e '.[site]'")
    hooks = script(".ci/site.py")
    start = SimpleNamespace(file=SimpleNamespace(src_uri="index.md"))
    known = {
        "https://github.com/one/fork.git": "one/fork",
        "git@github.com:one/fork": "one/fork",
        "ssh://git@github.com/one/fork.git/": "one/fork",
        "https://example.org/one/fork": "",
        "/srv/github.com/fork": "",
    }
    monkeypatch.setattr(hooks, "ROOT", tmp_path)
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    for address, name in known.items():
        subprocess.run(["git", "-C", tmp_path, "config", "remote.origin.url", address], check=True)
        assert hooks.repository() == name, address
    assert hooks.on_page_markdown("text", start, None, None) == "text"  # a path is no address
    monkeypatch.setenv("GITHUB_REPOSITORY", "one/fork")
    page = hooks.on_page_markdown("text", start, None, None)
    assert f"/one/fork/blob/HEAD/{hooks.FIRST}" in page and f"/one/fork/HEAD?urlpath=lab/tree/{hooks.FIRST}" in page
    assert (ROOT / hooks.FIRST).is_file() and 'tlg-lib[notebooks] @ git+https://github.com/one/fork"' in page
