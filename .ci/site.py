"""Hooks of mkdocs.yml: the notebooks' pages, and a page of the API for each module of the core, found and searched."""

from __future__ import annotations

import json
import os
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
FIRST = "notebooks/00_start_here.ipynb"
BROWSER = """
## Try it in a browser

[Open in Colab](https://colab.research.google.com/github/{name}/blob/HEAD/{first}){{ .md-button .md-button--primary }}
[Open in Binder](https://mybinder.org/v2/gh/{name}/HEAD?urlpath=lab/tree/{first}){{ .md-button }}

Binder installs everything by itself (some minutes). In Colab this cell comes before the notebook's own:

```
!pip install -q "tlg-lib[notebooks] @ git+https://github.com/{name}"
```
"""


def core() -> list[str]:
    return sorted(path.stem for path in (ROOT / "tlg_lib").glob("[a-z]*.py") if path.stem != "cli")


def on_config(config):
    pages = [{path.stem.replace("_", " "): path.name} for path in sorted((ROOT / "docs").glob("[0-9]*.html"))]
    for part in config.nav:
        if "Notebooks" in part:
            part["Notebooks"] = pages
        if "API" in part:
            part["API"] += [{f"tlg_lib.{name}": f"reference/{name}.md"} for name in core()]
    return config


def on_files(files, config):
    for name in core():
        files.append(File.generated(config, f"reference/{name}.md", content=f"::: tlg_lib.{name}\n"))
    return files


def repository() -> str:
    """owner/name on GitHub, told by its workflow or by where this clone came from; "" where neither does."""
    if known := os.environ.get("GITHUB_REPOSITORY", ""):
        return known
    command = ["git", "-C", ROOT, "config", "remote.origin.url"]
    origin = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    found = re.fullmatch(r"(?:https://|ssh://)?(?:git@)?github\.com[:/]([\w.-]+/[\w.-]+?)(?:\.git)?/?", origin)
    return found[1] if found else ""


def on_page_markdown(markdown, page, config, files):
    if page.file.src_uri == "index.md" and (name := repository()):
        markdown += BROWSER.format(name=name, first=FIRST)
    return re.sub(r"\]\(\.\./tlg_lib/(\w+)\.py\)", r"](reference/\1.md)", markdown)  # source there, its page here


class Sections(HTMLParser):
    """Headings of the first and second order with their addresses, and the text below each; no code, no output."""

    def __init__(self, text: str):
        super().__init__()
        self.found, self.inside, self.depth = [], "", 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.depth += tag == "pre"
        if tag in ("h1", "h2"):
            self.found.append({"id": dict(attributes).get("id", ""), "title": "", "text": ""})
            self.inside = tag

    def handle_endtag(self, tag):
        self.depth -= tag == "pre"
        self.inside = "" if tag == self.inside else self.inside

    def handle_data(self, data):
        if self.found and not self.depth and data.strip() not in ("", "¶"):
            self.found[-1]["title" if self.inside else "text"] += data.replace("\n", " ") + " "


def on_post_build(config):
    site = Path(config.site_dir)
    file = site / "search" / "search_index.json"
    index = json.loads(file.read_text(encoding="utf-8"))
    for page in sorted(site.glob("[0-9]*.html")):
        for section in Sections(page.read_text(encoding="utf-8")).found:
            where = f"{page.name}#{section['id']}"
            index["docs"].append(
                {"location": where, "title": section["title"].strip(), "text": section["text"].strip()}
            )
    file.write_text(json.dumps(index, ensure_ascii=False), encoding="utf-8")
