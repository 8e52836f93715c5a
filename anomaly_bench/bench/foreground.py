"""Which pixels of a test image show the object: masks that anomaly maps are multiplied by before the image is scored.

Paper       AST-MFR, the background removal of Table 9: a binary foreground mask by SAM times the anomaly map.
            It states neither prompt nor model size, and SAM wants a large checkpoint; so three rules without weights
            stand beside it. All their constants are our choice, at an evaluated size of 256.
border      A Gaussian in L*a*b* over the frame, the outermost 5 pixels; each pixel's Mahalanobis distance to it,
            smoothed (sigma 2), above Otsu's threshold; closed 5x5, holes filled, components above 0.5 % of the image
            kept, grown by 7 pixels.
otsu        The same, from the distance of each pixel's grey to the frame's median grey.
grabcut     OpenCV's GrabCut (Rother et al., SIGGRAPH 2004), 5 iterations, started from the rule `border`.
sam         Segment Anything (Kirillov et al., ICCV 2023), asked for what lies at the image's centre.
Fallback    A mask that covers under 2 % or above 95 % of the image, or above 60 % of the frame, is not believed:
            that image is kept whole.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes, gaussian_filter
from skimage import color, filters, morphology

from anomaly_bench.errors import UserError

ForegroundRule = Literal["otsu", "border", "grabcut", "sam"]
Image = NDArray[np.uint8]  # (H, W, 3) RGB
Mask = NDArray[np.bool_]  # (H, W)

# The paper states none of these; see the module's description.
FRAME = 5  # pixels
RIDGE = 1e-3  # L*a*b* units squared; a background of one colour has no covariance to invert
SIGMA = 2.0  # pixels
CLOSING = np.ones((5, 5), np.uint8)
# Generous: what is masked away can never be found.
GROWTH = morphology.disk(7)  # type: ignore[no-untyped-call]
LEAST_COMPONENT = 0.005  # of the image's pixels
COVERAGE = (0.02, 0.95)  # of the image's pixels
MOST_FRAME = 0.6  # of the frame's pixels
GRABCUT_ITERATIONS = 5
SAM_FILE = re.compile(r"sam_vit_([blh])([_.].*)?\.pth")


@dataclass(frozen=True)
class Foreground:
    """What N images show.

    Attributes:
        masks: (N, H, W) bool, True where the object is.
        fallbacks: indices of the images whose mask was not believed and is therefore all True, ascending.
    """

    masks: NDArray[np.bool_]
    fallbacks: tuple[int, ...]


def foreground_masks(
    images: NDArray[np.uint8], rule: ForegroundRule, *, sam_checkpoint: Path | None = None
) -> Foreground:
    """One mask an image, which depends on that image alone.

    Args:
        images: (N, H, W, 3) RGB, at the evaluated size.
        rule: how the object is found, see the module's description.
        sam_checkpoint: the file that `require_sam` has found; only the rule `sam` reads it.

    Raises:
        UserError: `rule` is "sam", and its package is not installed or its checkpoint is missing or damaged.
    """
    find_object = _sam_rule(sam_checkpoint) if rule == "sam" else WEIGHT_FREE[rule]
    masks = np.ones(images.shape[:3], dtype=bool)
    fallbacks = []
    for index, image in enumerate(images):
        mask = find_object(image)
        if _believable(mask):
            masks[index] = mask
        else:
            fallbacks.append(index)
    return Foreground(masks, tuple(fallbacks))


def find_sam(weights_dir: Path | None) -> list[Path]:
    """Every SAM checkpoint in the weights folder."""
    return sorted(weights_dir.glob("sam_vit_*.pth")) if weights_dir is not None else []


def require_sam(weights_dir: Path | None) -> Path:
    """The SAM checkpoint in the weights folder: to be asked before anything is trained.

    Raises:
        UserError: the package is not installed, or the folder does not hold exactly one `sam_vit_*.pth`.
    """
    _segment_anything()
    if weights_dir is None:
        raise UserError(
            "background=sam needs a checkpoint; put sam_vit_b_*.pth into a folder and name it by --weights-dir."
        )
    if not weights_dir.is_dir():
        raise UserError(
            f"weights folder {weights_dir} does not exist; correct --weights-dir (or ANOMALY_BENCH_WEIGHTS)."
        )
    found = find_sam(weights_dir)
    if not found:
        raise UserError(f"{weights_dir} holds no SAM checkpoint; put sam_vit_b_*.pth into the weights folder.")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(f"{weights_dir} holds several SAM checkpoints ({names}); keep only one of them there.")
    _sam_type(found[0])
    return found[0]


def _believable(mask: Mask) -> bool:
    """The one test that masks of all rules must pass; above 60 % of its frame, a mask contradicts its own premise."""
    least, most = COVERAGE
    return bool(least <= mask.mean() <= most and mask[_frame(mask.shape)].mean() <= MOST_FRAME)


def _frame(shape: tuple[int, ...]) -> Mask:
    frame = np.ones(shape, dtype=bool)
    frame[FRAME:-FRAME, FRAME:-FRAME] = False
    return frame


def _border_mask(image: Image) -> Mask:
    return _grown(_core(_colour_distance(image)))


def _otsu_mask(image: Image) -> Mask:
    return _grown(_core(_grey_distance(image)))


def _colour_distance(image: Image) -> NDArray[np.float64]:
    """sqrt((x - m)^T (S + 1e-3 I)^-1 (x - m)), m and S the mean and covariance of the frame in L*a*b*; (H, W)."""
    lab = color.rgb2lab(image)
    background = lab[_frame(image.shape[:2])]  # (P, 3)
    precision = np.linalg.inv(np.cov(background, rowvar=False) + RIDGE * np.eye(3))
    deviation = lab - background.mean(axis=0)
    return np.sqrt(np.einsum("hwi,ij,hwj->hw", deviation, precision, deviation))


def _grey_distance(image: Image) -> NDArray[np.float64]:
    """|grey - median grey of the frame|, (H, W)."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(float)
    return np.abs(grey - np.median(grey[_frame(grey.shape)]))


def _core(distance: NDArray[np.float64]) -> Mask:
    """The object as its distance to the background shows it, not yet grown; (H, W) to (H, W)."""
    smooth = gaussian_filter(distance, sigma=SIGMA)
    threshold = filters.threshold_otsu(smooth)  # type: ignore[no-untyped-call]
    above = (smooth > threshold).astype(np.uint8)
    return _large_components(binary_fill_holes(cv2.morphologyEx(above, cv2.MORPH_CLOSE, CLOSING)))


def _large_components(mask: Mask) -> Mask:
    labels = cv2.connectedComponents(mask.astype(np.uint8))[1]  # 0 is the background
    kept = np.bincount(labels.ravel()) > LEAST_COMPONENT * mask.size
    kept[0] = False
    return kept[labels]


def _grown(mask: Mask) -> Mask:
    return cv2.dilate(mask.astype(np.uint8), GROWTH).astype(bool)


def _grabcut_mask(image: Image) -> Mask:
    """Sure object is the core shrunk as far as `border` grows it, sure background is all beyond the grown one."""
    core = _core(_colour_distance(image))
    grown = _grown(core)
    if not _believable(grown):
        return grown  # nothing to start from; the caller does not believe it either
    labels = np.where(grown, cv2.GC_PR_BGD, cv2.GC_BGD).astype(np.uint8)
    labels[core] = cv2.GC_PR_FGD
    labels[cv2.erode(core.astype(np.uint8), GROWTH).astype(bool)] = cv2.GC_FGD
    cv2.setRNGSeed(0)  # GrabCut's clusters start at random: seeded anew, no image depends on those before it
    object_model, background_model = np.zeros((1, 65)), np.zeros((1, 65))  # OpenCV's scratch space
    cv2.grabCut(image, labels, (0, 0, 0, 0), background_model, object_model, GRABCUT_ITERATIONS, cv2.GC_INIT_WITH_MASK)
    return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))


WEIGHT_FREE: dict[ForegroundRule, Callable[[Image], Mask]] = {
    "otsu": _otsu_mask,
    "border": _border_mask,
    "grabcut": _grabcut_mask,
}


def _sam_rule(checkpoint: Path | None) -> Callable[[Image], Mask]:
    if checkpoint is None:
        raise UserError("background=sam needs a checkpoint; put sam_vit_b_*.pth into the weights folder.")
    predictor = _segment_anything().SamPredictor(_load_sam(checkpoint))

    def find_object(image: Image) -> Mask:
        """The largest of SAM's answers (part, whole, or all together) that is not nearly the whole image."""
        height, width = image.shape[:2]
        predictor.set_image(image)
        answers: NDArray[np.bool_] = predictor.predict(
            point_coords=np.array([[width / 2, height / 2]]), point_labels=np.array([1]), multimask_output=True
        )[0]  # (3, H, W)
        return max((mask for mask in answers if mask.mean() <= COVERAGE[1]), key=np.sum, default=answers[0])

    return find_object


def _load_sam(checkpoint: Path) -> Any:
    """SAM in evaluation mode, on a GPU where there is one; the package's own loading would run a pickle's code."""
    model = _segment_anything().sam_model_registry[_sam_type(checkpoint)](checkpoint=None)
    try:
        model.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True))
    except Exception as error:  # missing, truncated, of another network, or a pickle that wants to run code
        raise UserError(
            f"cannot read SAM checkpoint {checkpoint}: {type(error).__name__}; replace the file."
        ) from error
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _sam_type(checkpoint: Path) -> str:
    """`sam_vit_b_01ec64.pth` to `vit_b`."""
    match = SAM_FILE.fullmatch(checkpoint.name)
    if match is None:
        raise UserError(f"{checkpoint} does not tell its model; name it sam_vit_b_*.pth, sam_vit_l_* or sam_vit_h_*.")
    return f"vit_{match[1]}"


def _segment_anything() -> ModuleType:
    try:
        return importlib.import_module("segment_anything")
    except ImportError as error:
        raise UserError(
            "background=sam needs the package segment-anything; run `pip install segment-anything`."
        ) from error
