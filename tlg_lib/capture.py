"""Look inside a forward pass: ``with capture(model, names) as seen:`` keeps named intermediate tensors.

The network calls ``record(name, tensor)`` at every step of docs/design.md, 3.1; outside ``capture`` that does nothing.
Names: ``corr_query/l4``, ``conv4d_query/mix432``, ``ha/q_cat``, ``attn/s_cross``, ``ot/q_plan``, ``ht/q_out``,
``hc/text_merge``, ``prior/query``, ``dec/q_res`` ... (``model.tensor_names()`` lists those of a model).
"""

from __future__ import annotations

from contextlib import contextmanager

from torch import Tensor

from .errors import TLGError

_seen: dict[str, Tensor] | None = None
_wanted: frozenset[str] = frozenset()


def record(name: str, tensor: Tensor) -> None:
    """Keep ``tensor`` under ``name`` if a surrounding ``capture`` asked for it."""
    if _seen is not None and (not _wanted or name in _wanted):
        _seen[name] = tensor


def record_pair(group: str, name: str, tensor: Tensor) -> None:
    """Record a batch that holds one direction, or the query's and behind it the support's.

    ``group`` has a place for the direction, as in ``conv4d_{}/``.
    """
    if _seen is None:
        return
    for direction, part in zip(_directions, tensor.chunk(len(_directions))):
        record(group.format(direction) + name, part)


_directions: tuple[str, ...] = ("query",)


@contextmanager
def directions(*names: str):
    """Tell ``record_pair`` which directions a batch holds, in order (set by the 4D encoder)."""
    global _directions
    before, _directions = _directions, names
    try:
        yield
    finally:
        _directions = before


@contextmanager
def capture(model, names: tuple[str, ...] | list[str] = ()):
    """Collect intermediate tensors of ``model``'s forward passes inside the ``with`` block.

    Args: names -- which tensors; none named means all. Yields a dict, filled by each forward pass (a later
    pass overwrites). Tensors keep their graph: use torch.no_grad() around the pass, or detach them.
    Raises TLGError for a name that the model does not have.
    """
    global _seen, _wanted
    known = model.tensor_names()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise TLGError(f"no tensor named '{unknown[0]}' in this model: the names are {', '.join(known)}")
    before = _seen, _wanted
    seen: dict[str, Tensor] = {}
    _seen, _wanted = seen, frozenset(names)
    try:
        yield seen
    finally:
        _seen, _wanted = before
