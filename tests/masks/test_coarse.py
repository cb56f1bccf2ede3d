"""Drawn masks made coarse, as data_scripts/coarse_masks.py makes them for the mask-quality curve."""

import numpy as np

from conftest import script

SCRIPT = "data_scripts/coarse_masks.py"


def test_a_cell_is_what_half_of_it_is():
    mask = np.zeros((28, 56), np.uint8)  # cells of 4 x 4 pixels
    mask[0:4, 0:2] = 1  # half of the first cell
    mask[4:8, 4:5] = 1  # a quarter of another
    mask[8:12, 8:12] = 255  # unsure
    mask[12:20, 12:20] = 1
    found = script(SCRIPT).coarse(mask)
    expected = np.zeros_like(mask)
    expected[0:4, 0:4] = 1
    expected[12:20, 12:20] = 1
    assert np.array_equal(found, expected)


def test_a_fifth_stays_as_the_pseudo_masks_are(tiny_voc, tmp_path):
    from tlg_lib.data.folder import SegmentationFolder

    module, out = script(SCRIPT), tmp_path / "coarse"
    module.main(str(tiny_voc), str(out))
    plain, made = SegmentationFolder(tiny_voc), SegmentationFolder(tiny_voc, masks=out)
    rows = sorted({row for split in ("trn", "val") for f in range(4) for row in plain.rows(split, f)})
    kept = [np.array_equal(made.pseudo_mask(*row), plain.pseudo_mask(*row)) for row in rows]
    drawn = [np.array_equal(made.pseudo_mask(*row), module.coarse(plain.mask(*row))) for row in rows]
    assert all(a or b for a, b in zip(kept, drawn)) and 0 < sum(drawn)
    assert 0.05 < np.mean([not d for d in drawn]) < 0.4
