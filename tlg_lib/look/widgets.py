"""Five widgets to look inside a network: thin shells around the pure functions of inside.py and figures_inside.py.

Each is an ipywidgets box that can be displayed as it is. Controls are labelled and work by keyboard; an error
is written into the widget. All pictures are ``Picture``s, which a browser shows with their description.
"""

from __future__ import annotations

import functools
import html
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anywidget
import ipywidgets
import numpy as np
import traitlets

from ..errors import TLGError
from . import inside
from .figures import overlay
from .figures_inside import heat, heat_over, png, resized

STATIC = Path(__file__).with_name("static")
WIDTH = 210  # pixels of a picture on the screen
SHARP = 330  # pixels that maps are drawn with, for screens of higher density
LABELS = {"description_width": "150px"}
SLIDER = {"style": LABELS, "layout": {"width": "430px"}}


class Picture(anywidget.AnyWidget):
    """A PNG with an alternative text and a caption; where ``pickable``, a click or the arrow keys choose a cell.

    row, column: the chosen cell of a ``rows`` x ``columns`` grid laid over the picture, from 0.
    """

    _esm = STATIC / "picture.js"
    _css = STATIC / "picture.css"
    data = traitlets.Bytes(b"").tag(sync=True)
    alt = traitlets.Unicode("").tag(sync=True)
    caption = traitlets.Unicode("").tag(sync=True)
    width = traitlets.Int(WIDTH).tag(sync=True)
    pickable = traitlets.Bool(False).tag(sync=True)
    rows = traitlets.Int(1, min=1).tag(sync=True)
    columns = traitlets.Int(1, min=1).tag(sync=True)
    row = traitlets.Int(0, min=0).tag(sync=True)
    column = traitlets.Int(0, min=0).tag(sync=True)

    def show(self, picture: np.ndarray, alt: str, caption: str = "", least: int = WIDTH) -> None:
        """Show uint8 [H, W(, 3)] with its description, enlarged to ``least`` pixels across where it is smaller."""
        with self.hold_sync():
            self.data, self.alt, self.caption = png(picture, least), alt, caption or alt


def _row(*children) -> ipywidgets.Box:
    """Children side by side, wrapping on a narrow screen."""
    return ipywidgets.Box(children, layout={"display": "flex", "flex_flow": "row wrap", "align_items": "flex-start"})


def heading(title: str, help_text: str) -> ipywidgets.HTML:
    """A widget's name and how it is used."""
    return ipywidgets.HTML(f"<b>{html.escape(title)}</b><br>{html.escape(help_text)}")


def reporting(update: Callable) -> Callable:
    """An observer whose errors are shown in ``self.message``: a callback's traceback would reach no reader."""

    @functools.wraps(update)
    def inside_message(self, *_):
        try:
            update(self)
        except TLGError as error:
            self.message.value = _alarm(str(error))
        except Exception as error:  # whatever went wrong belongs before the eyes of who moved the control
            self.message.value = _alarm(f"{type(error).__name__}: {error}")
        else:
            self.message.value = ""

    return inside_message


def _alarm(text: str) -> str:
    return f'<div role="alert" style="color:#b03a00"><b>error:</b> {html.escape(text)}</div>'


def _watch(update: Callable, *controls) -> None:
    for control in controls:
        control.observe(update, names="value")


class CorrelationExplorer(ipywidgets.VBox):
    """Choose a query position and see where it looks in the support, on each of the three levels.

    Controls: ``query`` (a Picture; click or arrow keys: .row, .column on the finest grid), ``level`` ("all" or
    one stride), ``masked`` (hide the support's background first). Results: ``maps``, a Picture per level.
    """

    def __init__(self, scene: inside.Scene):
        self.scene = scene
        rows, columns = inside.level_grid(scene, 0)
        row, column = inside.object_cell(scene.query_mask, (rows, columns))
        self.query = Picture(pickable=True, rows=rows, columns=columns, row=row, column=column)
        self.query.show(
            scene.query,
            f"Query image with a {scene.class_name}.",
            "query: click a position, or focus it and use the arrow keys",
        )
        self.level = ipywidgets.Dropdown(
            description="level",
            style=LABELS,
            options=[("all levels", -1)] + [(f"stride {stride}", i) for i, stride in enumerate(inside.STRIDES)],
        )
        self.masked = ipywidgets.Checkbox(description="mask the support first", style=LABELS, indent=False)
        self.maps = tuple(Picture() for _ in inside.STRIDES)
        self.message = ipywidgets.HTML()
        self.query.observe(self.update, names=["row", "column"])
        _watch(self.update, self.level, self.masked)
        self.update()
        super().__init__(
            [
                heading("Where does a query position look?", "Bright: similar to the chosen position."),
                _row(self.level, self.masked),
                _row(self.query, *self.maps),
                self.message,
            ]
        )

    @reporting
    def update(self) -> None:
        scene, wanted = self.scene, self.level.value
        for level, (stride, picture) in enumerate(zip(inside.STRIDES, self.maps)):
            picture.layout.display = "" if wanted in (-1, level) else "none"
            if wanted not in (-1, level):
                continue
            rows, columns = inside.level_grid(scene, level)
            row, column = self.query.row * rows // self.query.rows, self.query.column * columns // self.query.columns
            seen = inside.where_it_looks(scene, level, row, column, masked=self.masked.value)
            best = divmod(int(seen.argmax()), seen.shape[1])
            picture.show(
                heat_over(resized(scene.supports[0], (SHARP, SHARP)), seen, 0.0),
                f"Support image, similarity to query position ({row}, {column}) at stride {stride}.",
                f"support, stride {stride}: highest {seen.max():.2f} at {best}, mean {seen.mean():.2f}",
            )


def _ends(value: float, low: float, high: float) -> dict[str, float]:
    """A slider's ends, widened to a value beyond them: ipywidgets would silently take the end in its place."""
    return {"min": min(low, math.floor(100 * value) / 100), "max": max(high, math.ceil(100 * value) / 100)}


class TransportExplorer(ipywidgets.VBox):
    """Choose a token and the strength of regularisation; see where attention and the plan send its mass.

    Controls: ``tokens`` (Picture; the asking token), ``branch``, ``reg`` (log slider). Results: ``attention``,
    ``plan`` (Pictures over the answering image), ``matrix`` (the whole plan), ``figures`` (HTML line).
    """

    def __init__(self, scene: inside.Scene):
        self.scene = scene
        self._costs: dict[str, object] = {}
        self.branch = ipywidgets.Dropdown(description="asking image", options=["query", "support"], style=LABELS)
        self.reg = ipywidgets.FloatLogSlider(
            description="regularisation",
            value=scene.config.transport_reg,
            base=10,
            **_ends(math.log10(scene.config.transport_reg), -2.5, 1),
            step=0.05,
            readout_format=".3f",
            continuous_update=False,
            **SLIDER,
        )
        rows, columns = inside.tokens_of(scene)
        row, column = inside.object_cell(scene.query_mask, (rows, columns))
        self.tokens = Picture(pickable=True, rows=rows, columns=columns, row=row, column=column)
        self.attention, self.plan, self.matrix = Picture(), Picture(), Picture()
        self.figures, self.message = ipywidgets.HTML(), ipywidgets.HTML()
        self.tokens.observe(self.update, names=["row", "column"])
        _watch(self.update, self.branch, self.reg)
        self.update()
        super().__init__(
            [
                heading("Token to token: attention and transport", "The plan must give every token the same total."),
                _row(self.branch, self.reg),
                _row(self.tokens, self.attention, self.plan, self.matrix),
                self.figures,
                self.message,
            ]
        )

    @reporting
    def update(self) -> None:
        scene, branch = self.scene, self.branch.value
        if branch not in self._costs:
            self._costs[branch] = inside.transport_cost(scene, branch)
        moved = inside.transport_at(scene, self._costs[branch], self.reg.value)
        row, column = self.tokens.row, self.tokens.column
        asked = row * moved.asking[1] + column
        across = "second_attention" not in scene.config.as_released
        pictures = {"query": scene.query, "support": scene.supports[0]}
        other = {"query": "support", "support": "query"}[branch] if across else branch
        self.tokens.show(
            pictures[branch],
            f"The {branch} image in {moved.asking[0]} x {moved.asking[1]} tokens.",
            f"{branch}: click the asking token, or use the arrow keys",
        )
        attended, sent = moved.attention[asked], moved.plan[asked] / moved.plan[asked].sum()
        high = max(attended.max(), sent.max())
        large = resized(pictures[other], (SHARP, SHARP))
        for picture, share, name in (
            (self.attention, attended, "softmax attention"),
            (self.plan, sent, "transport plan"),
        ):
            picture.show(
                heat_over(large, share.reshape(moved.answering), 0.0, high),
                f"Where the {name} of token ({row}, {column}) goes in the {other} image.",
                f"{name} over the {other}: largest share {100 * share.max():.1f}%",
            )
        n = moved.plan.shape[0]
        self.matrix.show(heat(moved.plan * n, 0.0), f"The whole plan, {n} x {moved.plan.shape[1]} tokens.")
        columns = moved.attention.sum(0)
        self.figures.value = (
            f"spread (1 = uniform): {inside.entropy(moved.plan):.4f} · column sums of the plan × N: "
            f"{(moved.plan.sum(0) * n).min():.3f} to {(moved.plan.sum(0) * n).max():.3f} · of the attention: "
            f"{columns.min():.3f} to {columns.max():.3f}"
        )


class TextPriorEditor(ipywidgets.VBox):
    """Type other words for the class and see the text maps and the prediction change.

    Controls: ``name``, ``attribute``, ``background`` (Text; applied on Enter or when left), ``reset`` (Button).
    Results: ``query_map``, ``support_map``, ``prediction``, ``change`` (Pictures), ``figures`` (HTML line).
    """

    def __init__(self, scene: inside.Scene, clip, prompts):
        self.scene, self.clip, self.prompts = scene, clip, prompts
        self.words = inside.class_words(prompts, scene.episode.class_id)
        text = {"style": LABELS, "layout": {"width": "430px"}, "continuous_update": False}
        self.name = ipywidgets.Text(description="name (query)", value=self.words["name"], **text)
        self.attribute = ipywidgets.Text(description="attribute (support)", value=self.words["attribute"], **text)
        self.background = ipywidgets.Text(description="background (query)", value=self.words["background"], **text)
        self.reset = ipywidgets.Button(description="the dataset's words", tooltip="Put the original words back")
        self.query_map, self.support_map, self.prediction, self.change = (Picture() for _ in range(4))
        self.figures, self.message = ipywidgets.HTML(), ipywidgets.HTML()
        self._before: inside.TextEffect | None = None
        _watch(self.update, self.name, self.attribute, self.background)
        self.reset.on_click(self._put_back)
        self.update()
        super().__init__(
            [
                heading("Other words for the class", f"They fill the template “{prompts.template}”. Enter applies."),
                ipywidgets.VBox([self.name, self.attribute, self.background, self.reset]),
                _row(self.query_map, self.support_map, self.prediction, self.change),
                self.figures,
                self.message,
            ]
        )

    def _put_back(self, _button) -> None:
        self.name.value, self.attribute.value, self.background.value = (self.words[k] for k in inside.TEXT_KINDS)

    @reporting
    def update(self) -> None:
        scene = self.scene
        if self._before is None:
            self._before = inside.text_effect(scene, self.clip, self.prompts, self.words)
        typed = {"name": self.name.value, "attribute": self.attribute.value, "background": self.background.value}
        now = inside.text_effect(scene, self.clip, self.prompts, typed)
        for picture, values, branch in (
            (self.query_map, now.query_map, "query"),
            (self.support_map, now.support_map, "support"),
        ):
            picture.show(
                resized(heat(values), (WIDTH, WIDTH), smooth=False),
                f"The text map of the {branch} branch.",
                f"text map, {branch}: {values.min():.2f} to {values.max():.2f}",
            )
        mask = now.probability >= scene.config.threshold
        score = inside.iou(mask, scene.truth)
        self.prediction.show(
            overlay(scene.query, mask, "prediction"),
            "The query with the predicted mask.",
            f"prediction, IoU {score:.1f}",
        )
        difference = np.abs(now.probability - self._before.probability)
        self.change.show(
            heat_over(scene.query, difference, 0.0, max(0.1, float(difference.max()))),
            "Where the foreground probability changed.",
            f"change of probability: largest {difference.max():.3f}, mean {difference.mean():.4f}",
        )
        old = self._before.probability >= scene.config.threshold
        self.figures.value = (
            f"IoU with the dataset's words {inside.iou(old, scene.truth):.1f}, with these {score:.1f}"
            f" · pixels that changed sides: {int((mask != old).sum())} of {mask.size}"
        )


class ShotBuilder(ipywidgets.VBox):
    """Add and remove support images and see each one's say and the vote of all.

    Controls: ``choices``, a Checkbox per candidate image. Results: ``says``, a Picture per candidate, ``result``
    and ``figures`` (HTML line). candidates: image ids of the episode's class, other than the query.
    """

    def __init__(self, scene: inside.Scene, candidates: tuple[str, ...]):
        self.scene, self.candidates = scene, tuple(candidates)
        self.choices = tuple(
            ipywidgets.Checkbox(value=i == 0, description=f"support {i + 1}", indent=False, layout={"width": "120px"})
            for i in range(len(candidates))
        )
        self.says = tuple(Picture(width=120) for _ in candidates)
        self.result, self.figures, self.message = Picture(), ipywidgets.HTML(), ipywidgets.HTML()
        for image_id, picture in zip(candidates, self.says):
            self._support(image_id, picture)
        _watch(self.update, *self.choices)
        self.update()
        cells = [ipywidgets.VBox([c, p]) for c, p in zip(self.choices, self.says)]
        super().__init__(
            [
                heading("Which supports?", "Tick the images that the network may learn the class from."),
                _row(*cells),
                _row(self.result),
                self.figures,
                self.message,
            ]
        )

    def _support(self, image_id: str, picture: Picture, caption: str = "not used") -> None:
        shown, mask = inside.support_picture(self.scene, image_id)
        picture.show(overlay(shown, mask, "pseudo"), f"Support image {image_id} with its pseudo mask.", caption)

    @reporting
    def update(self) -> None:
        chosen = [i for i, box in enumerate(self.choices) if box.value]
        for i, picture in enumerate(self.says):
            if i not in chosen:
                picture.caption = "not used"
        shots, voted = inside.shot_votes(self.scene, tuple(self.candidates[i] for i in chosen))
        threshold, truth = self.scene.config.threshold, self.scene.truth
        alone = [inside.iou(shot >= threshold, truth) for shot in shots]
        for i, score in zip(chosen, alone):
            self.says[i].caption = f"alone: IoU {score:.1f}"
        total = inside.iou(voted, truth)
        self.result.show(
            overlay(self.scene.query, voted, "prediction"),
            "The query with the voted mask.",
            f"vote of {len(chosen)}: IoU {total:.1f}",
        )
        self.figures.value = (
            f"mean of the single supports {np.mean(alone):.1f} · their vote {total:.1f} · the query's "
            f"pseudo mask alone {inside.iou(self.scene.query_mask, truth):.1f}"
        )


class MaskExplorer(ipywidgets.VBox):
    """Change the recipe of a pseudo mask and see each stage.

    Controls: ``image`` (Dropdown), ``affinity``, ``box_threshold``, ``alpha``, ``refine``, ``unsure``, the fields of
    ``masks.generate.MaskRecipe``. Results: ``cam``, ``spread``, ``refined``, ``mask`` (Pictures), ``figures``.
    workshops: label -> (MaskWorkshop, truth {0, 1, 255} [H, W]); recipe: where to begin.
    """

    def __init__(self, workshops: dict[str, tuple[inside.MaskWorkshop, np.ndarray]], recipe):
        from ..masks.refine import available_refiners

        self.workshops, self.recipe = workshops, recipe
        vit = next(iter(workshops.values()))[0].maker.clip.kind == "vit"
        slow = {**SLIDER, "continuous_update": False}
        self.image = ipywidgets.Dropdown(
            description="image", options=list(workshops), style=LABELS, layout={"width": "350px"}
        )
        self.affinity = ipywidgets.Dropdown(
            description="affinity",
            options=["none", "features"] + ["attention"] * vit,
            value=recipe.affinity,
            style=LABELS,
        )
        self.refine = ipywidgets.Dropdown(
            description="refinement", options=available_refiners(), value=recipe.refine, style=LABELS
        )
        self.box_threshold = ipywidgets.FloatSlider(
            description="box threshold", value=recipe.box_threshold, min=0, max=1, step=0.05, **slow
        )
        self.alpha = ipywidgets.FloatSlider(
            description="background exponent", value=recipe.alpha, **_ends(recipe.alpha, 0.25, 6), step=0.25, **slow
        )
        self.unsure = ipywidgets.FloatSlider(
            description="unsure margin", value=recipe.unsure, **_ends(recipe.unsure, 0, 0.5), step=0.05, **slow
        )
        self.cam, self.spread, self.refined, self.mask = (Picture() for _ in range(4))
        self.figures, self.message = ipywidgets.HTML(), ipywidgets.HTML()
        controls = (self.image, self.affinity, self.refine, self.box_threshold, self.alpha, self.unsure)
        _watch(self.update, *controls)
        self.update()
        super().__init__(
            [
                heading("From a class map to a mask", "The box threshold acts through the affinity only."),
                _row(ipywidgets.VBox(controls[:3]), ipywidgets.VBox(controls[3:])),
                _row(self.cam, self.spread, self.refined, self.mask),
                self.figures,
                self.message,
            ]
        )

    @reporting
    def update(self) -> None:
        workshop, truth = self.workshops[self.image.value]
        recipe = replace(
            self.recipe,
            affinity=self.affinity.value,
            refine=self.refine.value,
            alpha=self.alpha.value,
            box_threshold=self.box_threshold.value,
            unsure=self.unsure.value,
        )
        stages = workshop.stages(recipe)
        place = stages.classes.index(workshop.class_id)
        for picture, values, name in (
            (self.cam, stages.cam[place], "class map"),
            (self.spread, stages.spread[place], "after the affinity"),
            (self.refined, stages.confidence(workshop.class_id), "after the refinement"),
        ):
            picture.show(
                heat_over(workshop.image, values, 0.0, 1.0),
                f"The image with its map, {name}.",
                f"{name}: covers {100 * (values > 0.5).mean():.0f}% above 0.5",
            )
        mask = stages.mask(workshop.class_id)
        score = inside.iou(mask == 1, truth)
        self.mask.show(
            overlay(workshop.image, mask, "pseudo"), "The image with its pseudo mask.", f"pseudo mask, IoU {score:.1f}"
        )
        before = inside.iou(stages.argmax == place + 1, truth)
        self.figures.value = (
            f"IoU before the refinement {before:.1f}, after {score:.1f} · foreground "
            f"{100 * (mask == 1).mean():.0f}% of the image, truth {100 * (truth == 1).mean():.0f}% · "
            f"unsure {100 * (mask == 255).mean():.0f}%"
        )
