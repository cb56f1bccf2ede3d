"""Inside views and widgets on a tiny dataset: numbers against other ways to compute them, controls by their values."""

import hashlib
from dataclasses import replace

import ipywidgets
import numpy as np
import pytest
import torch
from PIL import Image

from tlg_lib.config import make_config
from tlg_lib.correlation import correlate, mask_features
from tlg_lib.errors import TLGError
from tlg_lib.experiment import open_experiment
from tlg_lib.look import figures_inside, inside, widgets
from tlg_lib.masks.generate import MaskRecipe
from tlg_lib.masks.prompts import load_prompts
from tlg_lib.model import build_model
from tlg_lib.text_prior import text_vectors

from conftest import SMALL


class WordClip:
    """Stands in for CLIP's text tower: a unit vector from the hash of each prompt; long prompts are refused."""

    kind, dim, name = "cnn", 16, "words"

    def encode_text(self, texts):
        rows = []
        for text in texts:
            if len(text) > 200:
                raise TLGError(f"the prompt '{text[:10]}...' is too long: shorten it")
            generator = torch.Generator().manual_seed(int(hashlib.sha256(text.encode()).hexdigest()[:8], 16))
            rows.append(torch.randn(self.dim, generator=generator))
        return torch.nn.functional.normalize(torch.stack(rows), dim=1)


class MapClip(WordClip):
    """A convolutional tower of one fixed layer, for the mask explorer."""

    def __init__(self):
        self.layer = torch.nn.Conv2d(3, self.dim, 8, stride=8)
        torch.manual_seed(0)
        torch.nn.init.normal_(self.layer.weight, std=0.2)
        self.layer.requires_grad_(False)

    def normalize(self, images):
        return images.float() / 255 - 0.5

    def visual_features(self, pixels):
        return self.layer(pixels)

    def pool_and_project(self, features):
        return torch.nn.functional.normalize(features.mean((2, 3)), dim=1)


@pytest.fixture(scope="module")
def scene(tiny_voc, tmp_path_factory):
    """A two-shot episode and a network with random weights that differ from its neutral start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLG_HOME", str(tmp_path_factory.mktemp("home")))
        config = make_config("smoke", data=str(tiny_voc), masks=str(tiny_voc / "PseudoMasks"), use_hc=False, **SMALL)
        experiment = open_experiment(config, progress=False)
        config = config.replace(use_hc=True, shots=2)
        model = build_model(config, experiment.backbone, text_vectors(WordClip(), load_prompts("mini"))).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(
                    0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(parameter)))
                )
            model.text.project.weight.mul_(100)  # as if long trained: words must be seen in the prediction
        yield inside.open_scene(experiment, config, model, experiment.test_episodes(config, 1)[0])


def picture_of(widget: widgets.Picture) -> np.ndarray:
    import io

    return np.asarray(Image.open(io.BytesIO(widget.data)).convert("RGB"))


# --- numbers


@pytest.mark.parametrize("masked", (False, True))
def test_where_it_looks_is_a_slice_of_the_correlation(scene, masked):
    for level, layers in enumerate(scene.experiment.backbone.levels):
        query, support = [scene.batch.query[i] for i in layers], [scene.batch.support[1][i] for i in layers]
        if masked:
            support = mask_features(support, scene.batch.support_mask[:, 1])
        whole = correlate(query, support)[0].mean(0)  # [H, W, h, w]
        row, column = (n - 1 for n in inside.level_grid(scene, level))
        seen = inside.where_it_looks(scene, level, row, column, masked=masked, shot=1)
        assert np.allclose(seen, whole[row, column].numpy(), atol=1e-5)


def test_position_outside_the_grid_is_refused(scene):
    with pytest.raises(TLGError, match="outside the 8 x 8 grid of stride 8"):
        inside.where_it_looks(scene, 0, 8, 0)


def test_plan_has_the_marginals_and_the_limits_of_transport(scene):
    cost = inside.transport_cost(scene)
    for reg in (0.01, 0.5, 10.0):
        plan = inside.transport_at(scene, cost, reg).plan
        assert np.allclose(plan.sum(0), 1 / 4, atol=1e-4) and np.allclose(plan.sum(1), 1 / 4, atol=1e-4)
    assert np.allclose(plan, 1 / 16, atol=1e-3)  # strong regularisation: everything to everybody
    assert inside.entropy(np.eye(4)) == pytest.approx(0.5) and inside.entropy(np.ones((4, 4))) == pytest.approx(1)


def test_text_effect_changes_with_the_words_and_leaves_the_network_alone(scene):
    prompts, clip = load_prompts("mini"), WordClip()
    words = inside.class_words(prompts, scene.episode.class_id)
    before = {k: v.clone() for k, v in scene.model.state_dict().items()}
    vectors = scene.model.text.name.clone()
    own = inside.text_effect(scene, clip, prompts, words)
    other = inside.text_effect(scene, clip, prompts, {**words, "name": "zebra"})
    assert not np.allclose(own.query_map, other.query_map)
    assert np.array_equal(own.support_map, other.support_map)  # the attribute, which shapes it, was kept
    assert torch.equal(scene.model.text.name, vectors)
    assert all(torch.equal(v, before[k]) for k, v in scene.model.state_dict().items())
    with pytest.raises(TLGError, match="attribute prompt is empty"):
        inside.text_effect(scene, clip, prompts, {**words, "attribute": " "})


def test_the_dataset_s_words_give_the_network_s_own_prediction(scene):

    words = inside.class_words(load_prompts("mini"), scene.episode.class_id)
    effect = inside.text_effect(scene, WordClip(), load_prompts("mini"), words)
    with torch.no_grad():
        expected = scene.model.predict(scene.batch)[0].mean(0).numpy()
    assert np.allclose(effect.probability, expected, atol=1e-5)


def test_shots_are_the_single_predictions_and_their_majority(scene):
    a, b = scene.episode.support
    both, voted = inside.shot_votes(scene, (a, b))
    alone = [inside.shot_votes(scene, (s,))[0][0] for s in (a, b)]
    assert np.allclose(both, np.stack(alone), atol=1e-5)
    hits = (np.stack(alone) >= 0.5).sum(0)
    assert np.array_equal(voted, hits >= max(1, hits.max()) / 2)
    with pytest.raises(TLGError, match="tick at least one"):
        inside.shot_votes(scene, ())


def test_iou_counts_by_hand():
    prediction = np.array([[1, 1, 0], [0, 1, 1]])
    truth = np.array([[1, 0, 1], [0, 1, 255]])
    assert inside.iou(prediction, truth) == pytest.approx(50)  # 2 common, 4 in the union, 255 left out
    assert inside.iou(np.zeros((2, 2)), np.zeros((2, 2))) == 100


def test_separation_is_perfect_for_a_clean_split_and_chance_for_noise():
    mask = np.zeros((32, 32), np.uint8)
    mask[:, :16] = 1
    clean = np.zeros((2, 8, 8), np.float32)
    clean[0, :, :4], clean[1, :, 4:] = 1, 1
    assert inside.separation(clean, mask) == 1.0
    noise = np.random.default_rng(0).normal(size=(3, 8, 8)).astype(np.float32)
    assert 0.4 < inside.separation(noise, mask) < 0.8
    assert np.isnan(inside.separation(clean, np.zeros((32, 32), np.uint8)))


def test_object_cell_lies_inside_the_mask():
    mask = np.zeros((64, 96), np.uint8)
    mask[16:48, 56:96] = 1
    assert inside.object_cell(mask, (8, 12)) in {(r, c) for r in (3, 4) for c in (8, 9, 10)}
    assert inside.object_cell(np.zeros((64, 96), np.uint8), (8, 12)) == (4, 6)


# --- pictures


def test_heat_runs_from_dark_to_light_and_cells_are_marked_where_asked():
    ramp = figures_inside.heat(np.linspace(0, 1, 256)[None])
    lightness = ramp[0].astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) >= -0.5).all() and lightness[-1] > lightness[0] + 100
    marked = figures_inside.mark_cell(np.zeros((80, 80, 3), np.uint8), 1, 2, (4, 4))
    touched = np.argwhere(marked.any(-1))
    assert touched.min(0).tolist() == [20, 40] and touched.max(0).tolist() == [39, 59]
    assert not marked[25:35, 45:55].any()  # a frame, not a block


def test_png_keeps_the_pixels():
    picture = np.random.default_rng(0).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    shown = widgets.Picture()
    shown.data = figures_inside.png(picture, 20)
    assert np.array_equal(picture_of(shown)[::4, ::4], picture)


# --- widgets


def test_correlation_explorer_follows_the_click(scene):
    explorer = widgets.CorrelationExplorer(scene)
    before = explorer.maps[0].data
    explorer.query.row, explorer.query.column = 0, 1
    assert explorer.message.value == "" and explorer.maps[0].data != before
    assert "query position (0, 1) at stride 8" in explorer.maps[0].alt
    explorer.level.value = 2
    assert [m.layout.display for m in explorer.maps] == ["none", "none", ""]
    before = explorer.maps[2].data
    explorer.masked.value = True
    assert explorer.maps[2].data != before


def test_transport_explorer_follows_token_and_slider(scene):
    explorer = widgets.TransportExplorer(scene)
    assert (explorer.tokens.rows, explorer.tokens.columns) == (2, 2)
    told = explorer.figures.value
    explorer.reg.value = 0.01
    assert explorer.figures.value != told and "column sums of the plan × N: 1.000 to 1.000" in explorer.figures.value
    before = explorer.tokens.data, explorer.plan.alt
    explorer.tokens.row, explorer.tokens.column = 1 - explorer.tokens.row, 0
    assert f"token ({explorer.tokens.row}, 0)" in explorer.plan.alt and explorer.message.value == ""
    explorer.branch.value = "support"
    assert explorer.tokens.data != before[0] and "goes in the query image" in explorer.plan.alt


@pytest.mark.parametrize("reg", [0.001, 0.0315, 50.0, 100.0])
def test_a_setting_beyond_a_sliders_usual_end_is_the_sliders_value(scene, reg):
    """ipywidgets would take the end in its place and show another setting's plan as if it were this one's."""
    explorer = widgets.TransportExplorer(replace(scene, config=scene.config.replace(transport_reg=reg)))
    assert explorer.reg.value == pytest.approx(reg, rel=1e-12)
    assert explorer.reg.base**explorer.reg.min <= reg <= explorer.reg.base**explorer.reg.max


def test_text_editor_applies_words_shows_errors_and_puts_back(scene):
    editor = widgets.TextPriorEditor(scene, WordClip(), load_prompts("mini"))
    original, first = editor.name.value, editor.query_map.data
    editor.name.value = "zebra"
    assert editor.query_map.data != first and "largest 0.000," not in editor.change.caption
    shown = editor.query_map.data
    editor.name.value = ""
    assert "the name prompt is empty" in editor.message.value and 'role="alert"' in editor.message.value
    assert editor.query_map.data == shown  # the last good picture stays
    editor.name.value = "<b>" + "x" * 300
    assert "too long" in editor.message.value and "<b>x" not in editor.message.value
    editor.reset.click()
    assert editor.name.value == original and editor.message.value == "" and editor.query_map.data == first


def test_shot_builder_votes_with_what_is_ticked(scene):
    candidates = scene.episode.support
    builder = widgets.ShotBuilder(scene, candidates)
    builder.choices[1].value = True
    _, voted = inside.shot_votes(scene, candidates)
    assert f"vote of 2: IoU {inside.iou(voted, scene.truth):.1f}" == builder.result.caption
    for choice in builder.choices:
        choice.value = False
    assert "tick at least one" in builder.message.value and builder.says[0].caption == "not used"


def test_mask_explorer_equals_the_generator(scene):
    from tlg_lib.masks.generate import MaskMaker

    clip, prompts, recipe = MapClip(), load_prompts("mini"), MaskRecipe(affinity="none", refine="none")
    class_id = scene.episode.class_id
    workshop = inside.MaskWorkshop(MaskMaker(clip, prompts, recipe), scene.query, (class_id,), class_id)
    explorer = widgets.MaskExplorer({"one": (workshop, scene.truth)}, recipe)
    explorer.alpha.value, explorer.refine.value, explorer.affinity.value = 3.0, "guided", "features"
    assert explorer.message.value == ""
    wanted = MaskRecipe(affinity="features", refine="guided", alpha=3.0)
    expected = MaskMaker(clip, prompts, wanted).one(scene.query, (class_id,)).mask(class_id)
    assert f"IoU {inside.iou(expected == 1, scene.truth):.1f}" in explorer.mask.caption
    assert np.array_equal(workshop.stages(wanted).mask(class_id), expected)


def test_a_recipe_beyond_the_sliders_usual_ends_is_what_the_explorer_shows(scene):
    from tlg_lib.masks.generate import MaskMaker

    recipe = MaskRecipe(affinity="none", refine="none", alpha=20.0, unsure=0.83)
    class_id = scene.episode.class_id
    workshop = inside.MaskWorkshop(
        MaskMaker(MapClip(), load_prompts("mini"), recipe), scene.query, (class_id,), class_id
    )
    explorer = widgets.MaskExplorer({"one": (workshop, scene.truth)}, recipe)
    assert (explorer.alpha.value, explorer.unsure.value) == (20.0, 0.83)


def test_any_error_is_shown_in_the_widget_and_nowhere_else(scene, monkeypatch, capsys):
    explorer = widgets.CorrelationExplorer(scene)
    monkeypatch.setattr(inside, "where_it_looks", lambda *a, **k: 1 / 0)
    explorer.query.row = 0 if explorer.query.row else 1
    assert "ZeroDivisionError: division by zero" in explorer.message.value
    assert capsys.readouterr() == ("", "")


def test_every_control_has_a_label_and_every_picture_a_description(scene):
    prompts = load_prompts("mini")
    shown = [
        widgets.CorrelationExplorer(scene),
        widgets.TransportExplorer(scene),
        widgets.TextPriorEditor(scene, WordClip(), prompts),
        widgets.ShotBuilder(scene, scene.episode.support),
    ]

    def walk(widget):
        yield widget
        for child in getattr(widget, "children", ()):
            yield from walk(child)

    for widget in (w for top in shown for w in walk(top)):
        if isinstance(widget, widgets.Picture):
            assert len(widget.alt) > 15 and widget.alt.endswith(".")
        elif hasattr(widget, "value") and not isinstance(widget, ipywidgets.HTML):
            assert widget.description
