"""Write docs/api.md: what ``import tlg_lib`` offers, from the docstrings. ``python data_scripts/make_api.py``"""

from __future__ import annotations

import inspect
from pathlib import Path

import tlg_lib

PAGE = Path(__file__).resolve().parents[1] / "docs" / "api.md"


def entry(name: str) -> list[str]:
    """The signature, the docstring and, of a class, its public methods and properties, as Markdown lines."""
    thing = getattr(tlg_lib, name)
    lines = [f"## {name}", f"`tlg_lib.{tlg_lib.PUBLIC[name]}`", "", *_signature(name, thing), *_text(thing)]
    if inspect.isclass(thing) and not issubclass(thing, Exception):
        for key, member in vars(thing).items():
            function = getattr(member, "__func__", getattr(member, "fget", member))
            if key.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
                continue
            lines += [f"### {name}.{key}", *_signature(key, function, isinstance(member, property)), *_text(function)]
    return lines


def _signature(name: str, thing, is_property: bool = False) -> list[str]:
    try:
        signature = inspect.signature(thing)
        many = len(signature.parameters) > 12  # a Config has a field for everything: config.py lists them
        shown = "" if is_property else "(...)" if many else str(signature)
    except (TypeError, ValueError):
        shown = "(...)"
    return ["```python", f"{name}{shown}".replace("tlg_lib.", "").replace("'", ""), "```"]


def _text(thing) -> list[str]:
    return [inspect.getdoc(thing) or "", ""]


def page() -> str:
    head = [
        "# The public face",
        "What `from tlg_lib import ...` offers. Made from the docstrings by `python data_scripts/make_api.py`; shapes "
        "are in brackets: B batch, C channels, K supports, H W image, h w a map. How the parts hang together: "
        "[design.md](design.md).",
        "",
    ]
    return "\n".join(head + [line for name in tlg_lib.__all__ for line in entry(name)]).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
