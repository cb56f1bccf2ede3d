"""Files that are written: whole, with the rights that the user's umask leaves."""

import os
import stat

import pytest

from tlg_lib.checkpoints import Checkpoint, save_checkpoint
from tlg_lib.config import make_config
from tlg_lib.data.images import write_mask
from tlg_lib.data.splits import SPLITS, write_splits
from tlg_lib.machine.locks import folder_lock
from tlg_lib.machine.paths import atomic, write_json


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_and_folders_have_the_rights_that_the_umask_leaves(tmp_path, mask):
    import numpy as np
    import torch

    before = os.umask(mask)
    try:
        write_json(tmp_path / "new" / "a.json", {})
        with atomic(tmp_path / "b.bin") as file:
            file.write(b"x")
        write_mask(tmp_path / "c.png", np.zeros((2, 2), np.uint8))
        save_checkpoint(tmp_path / "d.safetensors", Checkpoint(make_config("smoke"), {"w": torch.ones(1)}, {}, {}))
        write_splits(tmp_path, {split: {fold: [] for fold in range(4)} for split in SPLITS}, {})
        with folder_lock(tmp_path):
            pass
    finally:
        os.umask(before)
    found = [path for path in tmp_path.rglob("*")]
    assert len(found) == 18
    for path in found:
        assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666) & ~mask, path
