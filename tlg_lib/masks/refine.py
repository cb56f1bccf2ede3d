"""From coarse scores to object outlines: guided filter, GrabCut, or a dense CRF where it is installed.

Every refiner maps (image uint8 [H, W, 3], probability float32 [1 + P, H, W], row 0 background, summing to 1
at every pixel) to probabilities of the same shape.
"""

from __future__ import annotations

import importlib.util

import cv2
import numpy as np

from ..errors import TLGError
from ..machine.extras import installing


def guided_filter(image: np.ndarray, score: np.ndarray, radius: int, eps: float) -> np.ndarray:
    """Filter a map so that its edges follow the image's (He, Sun and Tang, TPAMI 2013, colour guide).

    image uint8 [H, W, 3]; score float [H, W]; radius: half the window in pixels; eps: variance (of colours
    0..1) below which a window counts as flat. Returns float32 [H, W].
    """
    guide, score = image.astype(np.float32) / 255, score.astype(np.float32)
    size = (2 * radius + 1, 2 * radius + 1)
    mean = lambda x: cv2.boxFilter(x, -1, size, borderType=cv2.BORDER_REFLECT)  # noqa: E731
    guide_mean, score_mean = mean(guide), mean(score)  # [H, W, 3], [H, W]
    products = (guide[..., :, None] * guide[..., None, :]).reshape(*score.shape, 9)
    covariance = np.stack([mean(np.ascontiguousarray(products[..., i])) for i in range(9)], -1)
    covariance = covariance.reshape(*score.shape, 3, 3) - guide_mean[..., :, None] * guide_mean[..., None, :]
    covariance += eps * np.eye(3, dtype=np.float32)
    cross = mean(guide * score[..., None]) - guide_mean * score_mean[..., None]  # [H, W, 3]
    slope = np.linalg.solve(covariance, cross[..., None])[..., 0]  # [H, W, 3]
    offset = score_mean - (slope * guide_mean).sum(-1)  # [H, W]
    return (mean(slope.astype(np.float32)) * guide).sum(-1) + mean(offset.astype(np.float32))


def refine_guided(image: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Guided filter on every row, window and flatness in proportion to the image."""
    radius = max(2, round(min(image.shape[:2]) / 12))
    refined = np.stack([guided_filter(image, row, radius, 1e-3) for row in probability])
    return _normalised(refined)


def refine_grabcut(image: np.ndarray, probability: np.ndarray, rounds: int = 2) -> np.ndarray:
    """GrabCut (Rother et al., SIGGRAPH 2004) per class: above 0.8 and below 0.15 are sure, the rest is cut.

    What a cut adds or drops moves that class's probability to the other side of one half.
    """
    refined = probability.copy()
    bgr = np.ascontiguousarray(image[..., ::-1])
    for k in range(1, len(probability)):
        row = probability[k]
        labels = np.where(row > 0.5, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        labels[row > 0.8], labels[row < 0.15] = cv2.GC_FGD, cv2.GC_BGD
        foreground = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
        # A colour model has five components; with fewer pixels than that on a side there is nothing to cut.
        if min(foreground.sum(), (~foreground).sum()) < 16:
            continue
        cv2.setRNGSeed(0)  # its colour models start from a random k-means
        cv2.grabCut(bgr, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), rounds, cv2.GC_INIT_WITH_MASK)
        inside = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
        refined[k] = np.where(inside, np.maximum(row, 0.6), np.minimum(row, 0.4))
    refined[0] = np.clip(1 - refined[1:].sum(0), 0, 1)
    return _normalised(refined)


def refine_crf(image: np.ndarray, probability: np.ndarray, rounds: int = 10) -> np.ndarray:
    """Fully connected CRF (Kraehenbuehl and Koltun, NeurIPS 2011) with the settings of CLIP-ES."""
    if not crf_installed():
        raise no_crf()
    from pydensecrf import densecrf

    height, width = image.shape[:2]
    field = densecrf.DenseCRF2D(width, height, len(probability))
    unary = -np.log(np.clip(probability, 1e-8, 1)).reshape(len(probability), -1)
    field.setUnaryEnergy(np.ascontiguousarray(unary, dtype=np.float32))
    field.addPairwiseGaussian(sxy=1, compat=3)
    field.addPairwiseBilateral(sxy=67, srgb=3, rgbim=np.ascontiguousarray(image), compat=4)
    return np.array(field.inference(rounds), dtype=np.float32).reshape(probability.shape)


def crf_installed() -> bool:
    return importlib.util.find_spec("pydensecrf") is not None


def no_crf() -> TLGError:
    return TLGError(f"refine=crf needs pydensecrf2: {installing('crf')} (it is compiled), or use refine=guided", code=3)


REFINERS = {
    "none": lambda image, probability: probability,
    "guided": refine_guided,
    "grabcut": refine_grabcut,
    "crf": refine_crf,
}


def available_refiners() -> list[str]:
    """Names in REFINERS that run here."""
    return [name for name in REFINERS if name != "crf" or crf_installed()]


def _normalised(rows: np.ndarray) -> np.ndarray:
    rows = np.clip(rows, 0, None) + 1e-8
    return (rows / rows.sum(0)).astype(np.float32)
