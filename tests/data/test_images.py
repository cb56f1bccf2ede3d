"""Images of every common kind and every fault that a file can have."""

import io

import numpy as np
import pytest
from PIL import Image

from tlg_lib.data import images
from tlg_lib.data.classes import COCO_CATEGORY_IDS, COCO_CLASSES, PASCAL_CLASSES, class_names, fold_classes, fold_of
from tlg_lib.errors import TLGError


@pytest.fixture
def photo():
    smooth = np.linspace(0, 255, 40)[:, None, None] * np.ones((1, 60, 3))
    smooth[:, 30:, 0] = 20
    return smooth.astype(np.uint8)


def test_folds_partition_the_classes():
    for dataset, count in (("mini", 20), ("pascal", 20), ("coco", 80)):
        folds = [fold_classes(dataset, f) for f in range(4)]
        assert sorted(sum(folds, ())) == list(range(count)) == list(range(len(class_names(dataset))))
        assert all(fold_of(dataset, c) == f for f in range(4) for c in folds[f])
    assert fold_classes("pascal", 2) == (10, 11, 12, 13, 14)
    assert fold_classes("coco", 1)[:3] == (1, 5, 9)
    for fold in (4, -1, True, "1"):
        with pytest.raises(TLGError, match="fold"):
            fold_classes("pascal", fold)
    with pytest.raises(TLGError, match="unknown dataset 'voc'"):
        class_names("voc")


def test_class_names_are_where_the_datasets_number_them():
    # Anchors from the public lists: VOC 15 is person; COCO 90 is toothbrush, 18 dog, 67 dining table.
    assert PASCAL_CLASSES[15 - 1] == "person" and PASCAL_CLASSES[20 - 1] == "tvmonitor"
    assert len(set(PASCAL_CLASSES)) == 20 and len(set(COCO_CLASSES)) == 80 == len(COCO_CATEGORY_IDS)
    by_id = dict(zip(COCO_CATEGORY_IDS, COCO_CLASSES))
    assert by_id[90] == "toothbrush" and by_id[18] == "dog" and by_id[67] == "dining table"
    assert by_id[44] == "bottle" and by_id[27] == "backpack" and by_id[84] == "book" and by_id[31] == "handbag"


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "CMYK", "1"])
def test_every_mode_becomes_rgb(tmp_path, photo, mode):
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    source = Image.fromarray(photo).convert(mode)
    source.save(path)
    read = images.read_image(path)
    assert read.dtype == np.uint8 and read.shape == (40, 60, 3)
    error = np.abs(read.astype(int) - np.asarray(source.convert("RGB")).astype(int)).mean()
    assert error < 4  # the lossy JPEG of the CMYK case; the others are exact


def test_transparency_is_white(tmp_path):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2] = (200, 0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    read = images.read_image(tmp_path / "x.png")
    assert (read[:2] == (200, 0, 0)).all() and (read[2:] == 255).all()


def test_exif_orientation_turns_the_image(tmp_path, photo):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, to be turned by 90 degrees clockwise
    Image.fromarray(photo).save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(images.read_image(tmp_path / "x.png"), np.rot90(photo, -1))
    assert images.image_size(tmp_path / "x.png") == (60, 40)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif", "mpo"])
def test_of_several_frames_the_first_is_read_and_the_rest_is_told(tmp_path, photo, suffix):
    """But a telephone's MPO, whose second picture is the same view."""
    first, second = Image.fromarray(photo), Image.new("RGB", photo.shape[1::-1])
    many, one = tmp_path / f"many.{suffix}", tmp_path / "one.png"
    first.save(many, save_all=True, append_images=[second])
    first.save(one)
    assert abs(images.read_image(many).astype(int) - photo).mean() < 30 < abs(photo.astype(int)).mean()
    (tmp_path / "broken.gif").write_bytes(b"GIF89a")
    note = images.frames_note([one, many, tmp_path / "broken.gif", tmp_path / "absent.gif"])
    told = [f"pictures of several frames, of which the first is used: 1 (many.{suffix})"]
    assert note == ([] if suffix == "mpo" else told)


def test_sixteen_bit_photograph(tmp_path):
    deep = (np.arange(256, dtype=np.uint16).reshape(16, 16)) * 257
    Image.fromarray(deep).save(tmp_path / "x.png")
    assert np.array_equal(images.read_image(tmp_path / "x.png")[..., 0], np.arange(256).reshape(16, 16))


def _broken_files(folder, photo):
    data = io.BytesIO()
    Image.fromarray(photo).resize((300, 300)).save(data, "JPEG")
    files = {"truncated.jpg": data.getvalue()[: len(data.getvalue()) // 2], "empty.png": b"", "text.jpg": b"hello"}
    data = io.BytesIO()
    Image.fromarray(photo).save(data, "PNG")
    files["truncated.png"] = data.getvalue()[:-40]
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return {
        "truncated.jpg": "truncated",
        "empty.png": "empty",
        "text.jpg": "broken",
        "truncated.png": "broken",
        "absent.png": "no ",
    }


@pytest.mark.parametrize("name", ["truncated.jpg", "empty.png", "text.jpg", "truncated.png", "absent.png"])
@pytest.mark.parametrize("reader", [images.read_image, images.read_mask])
def test_broken_files_are_named_in_one_line(tmp_path, photo, name, reader):
    word = _broken_files(tmp_path, photo)[name]
    with pytest.raises(TLGError, match=name) as caught:
        reader(tmp_path / name)
    assert caught.value.code == 3 and word in str(caught.value) and "\n" not in str(caught.value)


def test_folder_is_not_an_image(tmp_path):
    with pytest.raises(TLGError, match="is a folder"):
        images.read_image(tmp_path)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_mask_keeps_numbers(tmp_path, bits):
    values = (np.arange(64, dtype=np.uint8) % min(2**bits, 21)).reshape(8, 8)
    image = Image.fromarray(values)
    image.putpalette(images.voc_palette().tobytes())
    image.save(tmp_path / "m.png", bits=bits)
    assert np.array_equal(images.read_mask(tmp_path / "m.png"), values)


def test_narrow_grey_mask_keeps_numbers(tmp_path):
    """A 4-bit grey PNG written by hand: Pillow alone would return 17 times the stored numbers."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"\0\x01\x23" + b"\0\x4f\x00"  # two rows of four pixels: 0 1 2 3 and 4 15 0 0
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 2, 4, 0, 0, 0, 0))
    png += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "m.png").write_bytes(png)
    assert images.read_mask(tmp_path / "m.png").tolist() == [[0, 1, 2, 3], [4, 15, 0, 0]]


def test_unfit_masks_are_refused_by_name(tmp_path, photo):
    Image.fromarray(photo).save(tmp_path / "colour.png")
    Image.fromarray(photo[..., 0].astype(np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(photo[..., 0]).save(tmp_path / "lossy.jpg")
    for name, word in (("colour.png", "in colour"), ("deep.png", "16-bit"), ("lossy.jpg", "JPEG")):
        with pytest.raises(TLGError, match=word) as caught:
            images.read_mask(tmp_path / name)
        assert name in str(caught.value) and caught.value.code == 3


def test_write_mask_round_trip_and_palette(tmp_path):
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    images.write_mask(tmp_path / "sub" / "m.png", values)
    assert np.array_equal(images.read_mask(tmp_path / "sub" / "m.png"), values)
    palette = images.voc_palette()  # known colours of the devkit: aeroplane, person, void
    assert [palette[i].tolist() for i in (0, 1, 15, 255)] == [[0, 0, 0], [128, 0, 0], [192, 128, 128], [224, 224, 192]]


def test_resize_sizes_and_values(photo):
    assert images.resize_image(photo, (10, 30)).shape == (10, 30, 3)
    mask = np.zeros((40, 60), np.uint8)
    mask[10:20] = 255
    mask[30:] = 7
    small = images.resize_mask(mask, (20, 15))
    assert small.shape == (20, 15) and set(np.unique(small)) == {0, 7, 255}
    # Antialiasing: the mean of a fine checkerboard survives shrinking by 4.
    board = np.repeat((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[..., None], 3, 2)
    assert np.abs(images.resize_image(board, (16, 16)).astype(int) - 127).max() < 8


@pytest.mark.parametrize("white", [65535, 4080, 1023, 255])
def test_deep_greys_are_scaled_by_the_range_found(tmp_path, white):
    grey = np.tile(np.arange(256), (8, 1))
    stored = (grey * white // 255).astype(np.uint16)
    for name, values in (("a.png", stored), ("b.tif", stored), ("c.tif", stored.astype(np.int32) * 3)):
        Image.fromarray(values).save(tmp_path / name)
        read = images.read_image(tmp_path / name)[..., 0].astype(int)
        assert np.abs(read - grey).max() <= 1 and read[0, 0] == 0 and read[0, -1] == 255
    scanner = (grey * 12.0 - 1000).astype(np.float32)  # Hounsfield units: below zero is darker than air
    Image.fromarray(scanner).save(tmp_path / "d.tif")
    assert np.abs(images.read_image(tmp_path / "d.tif")[..., 1].astype(int) - grey).max() <= 1
    scanner[0, 0] = np.nan
    Image.fromarray(scanner).save(tmp_path / "d.tif")
    with pytest.raises(TLGError, match="no numbers"):
        images.read_image(tmp_path / "d.tif")


def test_twelve_bits_in_sixteen_of_a_colour_picture_are_refused(tmp_path):
    import cv2

    grey = np.tile(np.arange(256, dtype=np.uint16), (8, 1))
    colour = np.repeat(grey[..., None], 3, 2)
    cv2.imwrite(str(tmp_path / "full.png"), colour * 257)
    assert np.array_equal(images.read_image(tmp_path / "full.png")[..., 0], grey)
    cv2.imwrite(str(tmp_path / "twelve.png"), colour * 16)
    with pytest.raises(TLGError, match="twelve.png: 16 bits a channel, of which the highest are empty"):
        images.read_image(tmp_path / "twelve.png")


def test_a_palette_with_vocs_colours_at_other_numbers_is_refused(tmp_path):
    values = np.zeros((6, 6), np.uint8)
    values[2:4] = 15
    values[4:] = 255
    images.write_mask(tmp_path / "m.png", values)
    image = Image.open(tmp_path / "m.png")
    image.remap_palette([0, 15, 255]).save(tmp_path / "compact.png")
    assert np.unique(np.array(Image.open(tmp_path / "compact.png"))).tolist() == [0, 1, 2]
    assert np.array_equal(np.array(Image.open(tmp_path / "compact.png").convert("RGB")), np.array(image.convert("RGB")))
    with pytest.raises(TLGError, match="compact.png: number 1 is painted in VOC's colour of 15"):
        images.read_mask(tmp_path / "compact.png")
    # Palettes that are nobody's: a grey ramp, colours of one's own, no more colours than numbers in use.
    for name, palette in (("grey", np.arange(256).repeat(3)), ("own", [0, 0, 0, 255, 0, 0, 0, 255, 255])):
        image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
        image.putpalette(list(palette))
        image.save(tmp_path / f"{name}.png")
        assert images.read_mask(tmp_path / f"{name}.png").tolist() == [[0, 1, 2]]
    ramp = Image.fromarray(np.array([[0, 64, 128, 192]], np.uint8))  # greys that VOC has at 56, 7 and 63
    ramp.putpalette(np.arange(256).repeat(3).tolist())
    ramp.save(tmp_path / "ramp.png")
    assert images.read_mask(tmp_path / "ramp.png").tolist() == [[0, 64, 128, 192]]


def test_swapped_palette_entries_are_refused_and_so_is_black_at_another_number_than_0(tmp_path):
    values = np.repeat(np.array([0, 6, 7], np.uint8), 4).reshape(3, 4)
    swapped = images.voc_palette()
    swapped[[6, 7]] = swapped[[7, 6]]
    negative = np.zeros((256, 3), np.uint8)
    negative[0] = 255
    compact = images.voc_palette()
    compact[6] = compact[7]  # VOC's grey of class 7
    cases = (("swapped", swapped, "number 6"), ("negative", negative, "black"), ("compact", compact, "number 6"))
    for name, palette, word in cases:
        image = Image.fromarray(values)
        image.putpalette(palette.tobytes())
        image.save(tmp_path / f"{name}.png")
        with pytest.raises(TLGError, match=f"{name}.png: .*{word}"):
            images.read_mask(tmp_path / f"{name}.png")


def test_a_mask_that_exif_turns_is_refused(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(np.eye(6, dtype=np.uint8)).save(tmp_path / "m.png", exif=exif)
    with pytest.raises(TLGError, match="m.png: a mask with an EXIF orientation"):
        images.read_mask(tmp_path / "m.png")


def test_pictures_that_would_fill_the_memory_are_refused_by_their_header(tmp_path):
    Image.new("1", (12000, 12000)).save(tmp_path / "bomb.png")  # 144 million pixels in a few kB
    assert (tmp_path / "bomb.png").stat().st_size < 100_000
    for reader in (images.read_image, images.read_mask, images.image_size):
        with pytest.raises(TLGError, match="bomb.png.* 12000 x 12000 pixels, more than 64 million") as caught:
            reader(tmp_path / "bomb.png")
        assert caught.value.code == 3


def test_formats_that_start_programs_are_not_opened(tmp_path):
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(TLGError, match="not a readable image"):
        images.read_image(tmp_path / "x.png")


@pytest.mark.parametrize("order", ["II", "MM"])
def test_taking_the_orientation_out_of_a_jpeg_changes_nothing_else(tmp_path, photo, order):
    exif = Image.Exif()
    exif.endian = "<" if order == "II" else ">"
    exif[0x010F], exif[0x0112] = "a maker", 8
    Image.fromarray(photo).save(tmp_path / "x.jpg", exif=exif)
    content = images.without_orientation(tmp_path / "x.jpg")
    assert len(content) == (tmp_path / "x.jpg").stat().st_size
    stored = Image.open(io.BytesIO(content))
    assert stored.getexif()[0x0112] == 1 and stored.getexif()[0x010F] == "a maker"
    assert np.array_equal(np.array(stored), np.array(Image.open(tmp_path / "x.jpg")))
    (tmp_path / "y.png").write_bytes(b"\x89PNG")
    with pytest.raises(TLGError, match="no plain JPEG"):
        images.without_orientation(tmp_path / "y.png")
