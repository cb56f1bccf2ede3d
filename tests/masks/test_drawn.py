"""Masks drawn by a user: pictures, arrays, boxes and points become the object, or one line says why not."""

import numpy as np
import pytest
from PIL import Image

from tlg_lib.errors import TLGError
from tlg_lib.masks.drawn import drawn_mask, parse_shapes


@pytest.fixture(scope="module")
def scene():
    """A textured red disc on a textured green ground, and where it is: uint8 [90, 140, 3], bool [90, 140]."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:90, :140]
    disc = (rows - 45) ** 2 + (columns - 60) ** 2 < 25**2
    image = np.where(disc[..., None], (200, 60, 50), (60, 150, 70)) + rng.integers(-25, 26, (90, 140, 3))
    return image.clip(0, 255).astype(np.uint8), disc


def overlap(mask, truth):
    return (mask.astype(bool) & truth).sum() / (mask.astype(bool) | truth).sum()


@pytest.mark.parametrize("text", ["30,15,90,75", "60,45", "60,45 70,50 -120,20", "30,15,90,75;60,45"])
def test_boxes_and_points_are_cut_along_the_object(scene, text):
    image, disc = scene
    assert overlap(drawn_mask(image, text), disc) > 0.95


def test_a_large_photograph_is_cut_too_at_its_own_size(scene):
    image, disc = scene
    large = np.array(Image.fromarray(image).resize((1400, 900), Image.Resampling.NEAREST))
    mask = drawn_mask(large, "300,150,900,750")
    assert mask.shape == (900, 1400)
    assert overlap(mask, np.array(Image.fromarray(disc).resize((1400, 900), Image.Resampling.NEAREST))) > 0.95


def test_a_point_takes_the_part_it_lies_in_only(scene):
    image, disc = scene
    two = np.concatenate([image, image], 1)  # the same disc twice
    mask = drawn_mask(two, "60,45").astype(bool)
    assert overlap(mask[:, :140], disc) > 0.9 and mask[:, 140:].mean() < 0.01


def test_without_a_difference_in_colour_the_box_itself_is_the_mask():
    mask = drawn_mask(np.full((60, 80, 3), 128, np.uint8), "10,20,50,40")
    truth = np.zeros((60, 80), bool)
    truth[20:40, 10:50] = True
    assert overlap(mask, truth) > 0.95


def test_where_the_cut_loses_the_object_the_box_itself_is_the_mask(scene):
    """A box through the disc, on it a spot of another colour: the disc lies outside as well, so it is surroundings."""
    image, _ = scene
    image = image.copy()
    image[43:47, 56:62] = (240, 240, 40)
    mask = drawn_mask(image, "45,35,75,55").astype(bool)  # the spot is 4% of it
    box = np.zeros(mask.shape, bool)
    box[35:55, 45:75] = True
    assert overlap(mask, box) > 0.95
    spot = drawn_mask(image, "45,35,75,55 58,45").astype(bool)  # a point says that the spot is meant
    assert spot[43:47, 56:62].mean() > 0.9 and spot.sum() < 0.1 * box.sum()


def picture(kind: str, disc: np.ndarray) -> Image.Image:
    """The same disc, saved in the ways in which people save masks."""
    values = disc.astype(np.uint8)
    if kind == "voc palette, class 7, rim 255":
        values[disc] = 7
        values[(~disc) & np.roll(disc, 1, 0)] = 255
        image = Image.fromarray(values, "P")
        image.putpalette([i for v in range(256) for i in (v, 255 - v, v // 2)])
        return image
    if kind == "cut out":
        return Image.fromarray(np.dstack([np.full((*disc.shape, 3), 90, np.uint8), 255 * values]))
    if kind == "soft edges":
        return Image.fromarray(255 * values).resize((280, 180)).resize((140, 90), Image.Resampling.BILINEAR)
    if kind == "red, soft edges":
        soft = np.asarray(Image.fromarray(255 * values).resize((280, 180)).resize((140, 90)))
        return Image.fromarray(np.dstack([soft, soft // 5, soft // 5]))
    if kind == "colours of VOC, with its rim":
        colours = np.where(disc[..., None], (192, 128, 128), 0).astype(np.uint8)
        colours[(~disc) & np.roll(disc, 3, 0)] = (224, 224, 192)
        return Image.fromarray(colours)
    if kind == "16 bits":
        return Image.fromarray(disc.astype(np.uint16) * 65535)
    grey = {"0 and 255": 255, "0 and 1": 1, "0 and 38": 38, "white on black, colour": 255, "one bit": 255}[kind]
    image = Image.fromarray(grey * values)
    return image.convert("RGB") if "colour" in kind else image.convert("1") if kind == "one bit" else image


KINDS = (
    "0 and 255", "0 and 1", "0 and 38", "white on black, colour", "one bit", "soft edges", "cut out", "16 bits",
    "voc palette, class 7, rim 255", "red, soft edges", "colours of VOC, with its rim",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_the_mask_means_the_same_however_it_is_saved(scene, tmp_path, kind):
    image, disc = scene
    drawn = picture(kind, disc)
    drawn.save(tmp_path / "mask.png")
    for given in (tmp_path / "mask.png", str(tmp_path / "mask.png"), drawn):
        mask = drawn_mask(image, given)
        assert mask.dtype == np.uint8 and set(np.unique(mask)) == {0, 1}
        assert overlap(mask, disc) > (0.97 if "soft edges" in kind else 0.999999)


def test_arrays_bool_or_whole_numbers(scene):
    image, disc = scene
    for given in (disc, disc.astype(np.uint8), disc.astype(np.int64) * 255):
        np.testing.assert_array_equal(drawn_mask(image, given), disc)


@pytest.mark.parametrize(
    "given, named",
    [
        (np.zeros((90, 140), np.uint8), "nothing"),
        (np.ones((90, 140), bool), "everything"),
        (np.ones((140, 90), bool), "140 x 90 and 90 x 140"),
        (np.arange(90 * 140, dtype=np.uint8).reshape(90, 140) % 5, "1, 2, 3, 4: save one object"),
        (np.random.default_rng(0).integers(0, 256, (90, 140), np.uint8), "save one object"),
        (np.eye(3, dtype=np.uint8)[np.indices((90, 140)).sum(0) // 80] * 255, "several colours: save one object"),
        (
            np.where(np.arange(140)[:, None] < 40, (128, 0, 0), (0, 128, 0)) * np.ones((90, 1, 1), int),
            "several colours",
        ),
        (np.zeros((90, 140), np.float32), "float32"),
        (np.zeros((3, 90, 140), np.uint8), "(3, 90, 140)"),
        ("10,10,150,40", "0,0 to 140,90"),
        ("50,50,20,60", "the top left corner first"),
        ("50,50,51,90", "at least 2 pixels wide"),
        ("200,20", "200,20"),
        ("-5,5", "only what is not the object"),
        ("1,2,3", "1,2,3"),
        ("nowhere.png", "nowhere.png: no such file"),
        (7, "int"),
    ],
)
def test_what_is_no_mask_of_one_object_is_refused_in_one_line(scene, given, named):
    with pytest.raises(TLGError) as caught:
        drawn_mask(scene[0], given, "the mask of support image 2")
    assert named in str(caught.value) and "\n" not in str(caught.value)
    assert "the mask of support image 2" in str(caught.value)


def test_a_file_that_is_no_picture_is_named(scene, tmp_path):
    (tmp_path / "mask.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(TLGError, match="mask.png: the mask is broken"):
        drawn_mask(scene[0], tmp_path / "mask.png")


def test_a_mask_of_millions_of_pixels_is_refused_by_its_header(scene, tmp_path):
    Image.new("1", (12000, 12000)).save(tmp_path / "mask.png")  # 20 kB
    with pytest.raises(TLGError, match="12000 x 12000 pixels, more than 64 million"):
        drawn_mask(scene[0], tmp_path / "mask.png")


def test_a_palette_whose_black_is_not_0_is_read_by_its_colours(scene, tmp_path):
    image, disc = scene
    drawn = Image.fromarray((~disc).astype(np.uint8), "P")  # 0 is the object, painted white; 1 is black
    drawn.putpalette([255, 255, 255, 0, 0, 0])
    drawn.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(drawn_mask(image, tmp_path / "mask.png"), disc)


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_a_mask_that_was_painted_over_a_turned_photograph_is_turned_with_it(scene, tmp_path, orientation):
    image, disc = scene
    exif = Image.Exif()
    exif[0x0112] = orientation
    back = {2: lambda m: m[:, ::-1], 3: lambda m: m[::-1, ::-1], 4: lambda m: m[::-1]}[orientation]
    moved = np.roll(disc, (9, 20), (0, 1))  # no longer symmetric
    stored = Image.fromarray(np.ascontiguousarray(back(255 * moved.astype(np.uint8))))
    stored.save(tmp_path / "mask.jpg", quality=98, exif=exif)
    assert overlap(drawn_mask(image, tmp_path / "mask.jpg"), moved) > 0.97


def test_names_of_files_are_no_shapes():
    assert parse_shapes("mask.png", "x") is None and parse_shapes("my masks/a 1.png", "x") is None
    assert parse_shapes("1,2,3,4 5,6;-7,8", "x") == ([[1, 2, 3, 4]], [[5, 6]], [[7, 8]])
