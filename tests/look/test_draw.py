"""The widget that draws a support's mask: drags against what the same text gives without a widget."""

import base64
import io

import ipywidgets
import numpy as np
import pytest
from PIL import Image

from tlg_lib.look.draw import BOX, INSIDE, OUTSIDE, MaskDrawer
from tlg_lib.masks.drawn import drawn_mask, parse_shapes


@pytest.fixture
def disc():
    """The object: 60 pixels across; bool [120, 160]."""
    y, x = np.mgrid[:120, :160]
    return (y - 60) ** 2 + (x - 80) ** 2 < 30**2


@pytest.fixture
def image(disc):
    """It in red on green, with noise; uint8 [120, 160, 3]."""
    rng = np.random.default_rng(0)
    colours = np.where(disc[..., None], (200, 40, 40), (40, 160, 60))
    return np.clip(colours + rng.normal(0, 8, colours.shape), 0, 255).astype(np.uint8)


def drag(drawer, *points):
    drawer.canvas.stroke = {"points": [list(p) for p in points], "at": str(points)}


def test_a_dragged_box_is_the_box_of_the_command_line(image, disc):
    drawer = MaskDrawer(image)
    assert drawer.mask is None and "nothing is drawn" in drawer.canvas.caption
    drag(drawer, (120, 100), (60, 60), (40, 20))  # from the lower right corner
    assert drawer.value == "40,20,120,100"
    assert np.array_equal(drawer.mask, drawn_mask(image, "40,20,120,100"))
    assert (drawer.mask & disc).sum() / (drawer.mask | disc).sum() > 0.95
    assert f"{100 * drawer.mask.mean():.0f}%" in drawer.canvas.caption


def test_a_second_box_takes_the_place_of_the_first_and_scribbles_stay(image):
    drawer = MaskDrawer(image, "10,10,50,50")
    drawer.tool.value = INSIDE
    assert not drawer.canvas.boxed
    drag(drawer, *((70 + k, 60) for k in range(20)))
    drawer.tool.value = OUTSIDE
    drag(drawer, (50, 25))
    boxes, inside, outside = parse_shapes(drawer.value, "")
    assert boxes == [[10, 10, 50, 50]] and outside == [[50, 25]]
    assert 2 <= len(inside) <= 20 / (160 / 30) + 1 and all(y == 60 for _, y in inside)
    steps = np.diff([x for x, _ in inside])
    assert (steps >= 160 / 30).all()
    drawer.tool.value = BOX
    drag(drawer, (40, 20), (120, 100))
    assert parse_shapes(drawer.value, "") == ([[40, 20, 120, 100]], inside, outside)
    assert drawer.canvas.boxed and np.array_equal(drawer.mask, drawn_mask(image, drawer.value))


def test_a_drag_over_the_edge_ends_at_it(image):
    drawer = MaskDrawer(image)
    drag(drawer, (-50, -5), (500, 300))
    assert drawer.value == "0,0,160,120"
    drawer.clear.click()
    assert drawer.value == "" and drawer.mask is None
    drawer.tool.value = INSIDE
    drag(drawer, (500, 60))
    assert drawer.value == "159,60"


@pytest.mark.parametrize(
    "text, told",
    [
        ("40,20,40,21", "at least 2 pixels"),
        ("-3,4", "only what is not the object"),
        ("no-such-mask.png", "no such file"),
    ],
)
def test_what_is_wrong_is_said_in_the_widget_and_put_right_there(image, text, told, capsys):
    drawer = MaskDrawer(image, text)
    assert told in drawer.message.value and drawer.mask is None
    drawer.text.value = "40,20,120,100"
    assert drawer.message.value == "" and drawer.mask.any()
    assert capsys.readouterr().err == ""


def test_the_picture_shows_mask_and_box_and_stands_on_pages(image, tmp_path):
    from nbformat.v4 import new_output

    from tlg_lib.runs.docs import _output

    drawer = MaskDrawer(image, "40,20,120,100")
    plain, drawn = (
        np.asarray(Image.open(io.BytesIO(d.canvas.data)).convert("RGB")).astype(int)
        for d in (MaskDrawer(image), drawer)
    )
    height, width = drawn.shape[:2]
    changed = np.abs(drawn - plain).sum(2) > 0
    assert changed[height // 2, width // 2] and changed[41 * height // 240, width // 2] and not changed[0, 0]
    data, metadata = drawer._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]) == drawer.canvas.data
    (tmp_path / "pictures").mkdir()
    page = _output(new_output("display_data", data, metadata=metadata), tmp_path / "n.ipynb", tmp_path)
    assert "<img" in page and drawer.canvas.alt in page and len(list((tmp_path / "pictures").iterdir())) == 1


def test_a_click_is_no_box_and_a_drag_takes_the_place_of_a_masks_file(image, tmp_path):
    mask = drawn_mask(image, "40,20,120,100")
    Image.fromarray(mask * 255).save(tmp_path / "mask.png")
    drawer = MaskDrawer(image, str(tmp_path / "mask.png"))
    assert np.array_equal(drawer.mask, mask)
    drag(drawer, (60, 60), (61, 60))
    assert drawer.value == str(tmp_path / "mask.png") and np.array_equal(drawer.mask, mask)
    drawer.tool.value = INSIDE
    drag(drawer, (80, 60))
    assert drawer.value == "80,60"
    drawer.text.value = "1,2,3"
    assert drawer.mask is None
    drag(drawer, (81, 60))
    assert drawer.value == "81,60" and drawer.message.value == ""


def test_every_control_has_a_label(image):
    drawer = MaskDrawer(image)

    def below(widget):
        yield widget
        for child in getattr(widget, "children", ()):
            yield from below(child)

    controls = [w for w in below(drawer) if isinstance(w, ipywidgets.Text | ipywidgets.Dropdown | ipywidgets.Button)]
    assert len(controls) == 3 and all(control.description for control in controls)
    assert drawer.canvas.alt and drawer.canvas.caption
