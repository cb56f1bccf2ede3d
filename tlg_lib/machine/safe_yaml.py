"""YAML from a user's file: plain values only, no repeats, no aliases (they could expand to gigabytes).

Scalars are read as YAML 1.2 says: ``off``, ``no`` and ``2012-01-01`` are text, ``010`` is ten and ``1e-3`` a number.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from ..errors import TLGError

LARGEST = 1_000_000  # bytes; a spec of 1,000 cells is a tenth of that


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"alias on line {self.peek_event().start_mark.line + 1}: write the value out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            if name in seen:
                raise yaml.YAMLError(f"'{name}' stands twice (line {key.start_mark.line + 1})")
            seen.add(name)
        return super().construct_mapping(node, deep)


def _whole(loader, node) -> int:
    return int(loader.construct_scalar(node))


_Loader.yaml_implicit_resolvers = {}  # PyYAML's own are those of YAML 1.1
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _whole)


def read_yaml(path: str | Path):
    """The file's value. Raises TLGError naming the file and, where known, the line."""
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST:
            raise TLGError(f"{path} is larger than {LARGEST} bytes: that is no settings file")
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # a SafeLoader: makes no objects
    except OSError as error:
        raise TLGError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise TLGError(f"{path} is not text in UTF-8") from None
    # Constructors of numbers, dates and bytes raise plain errors on odd input; nesting can exhaust the stack.
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise TLGError(f"{path} is not valid YAML: {str(error)[:300]}") from None
