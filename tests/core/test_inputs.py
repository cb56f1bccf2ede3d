"""What a job has opened: one experiment for configs of the same inputs, files looked through while they change."""

import pytest

from tlg_lib import protocol
from tlg_lib.config import make_config
from tlg_lib.data.images import read_mask, write_mask
from tlg_lib.errors import TLGError
from tlg_lib.inputs import Inputs

from conftest import SMALL, make_tiny_voc

pytestmark = pytest.mark.usefixtures("own_home")


def test_files_that_were_found_right_are_looked_at_again_where_one_changed(tmp_path, monkeypatch):
    root = make_tiny_voc(tmp_path / "voc")
    config = make_config("pascal-lite", data=str(root), use_hc=False, **SMALL)
    looked, check = [], protocol.check_files
    monkeypatch.setattr(protocol, "check_files", lambda *given: looked.append(given[1]) or check(*given))
    inputs = Inputs()
    first = inputs.open(config)
    assert inputs.open(config.replace(steps=7)) is first  # what stood there at the first look is not known: once more
    seen = len(looked)
    for fold in (0, 1, 1, 0):
        assert inputs.open(config.replace(fold=fold)) is first
    assert len(looked) == seen + 1, "fold 1's rows once, fold 0's not again"

    path = sorted((root / "PseudoMasks").glob("*.png"))[0]
    whole = path.read_bytes()
    write_mask(path, read_mask(path) * 0 + 77)
    for _ in range(2):
        with pytest.raises(TLGError, match=f"{path.name}: class number 77"):
            inputs.open(config)
    seen = len(looked)
    path.write_bytes(whole)
    inputs.open(config)
    assert len(looked) == seen, "the files are again those that were found right"
