"""Torch rules that read maps at computed places, and those of signals."""

from __future__ import annotations

import numpy as np
import pytest

from tests.operator_cases import X3, X4, X5, Case, check, ints, noise, scalar, ways, whole

GRID = noise(2, 5, 3, 2, seed=1, low=-1.3, high=1.3)
SAMPLING = [
    *(
        Case("GridSample", [X4, GRID], {"mode": mode, "padding_mode": padding, "align_corners": align}, opset=opset)
        for opset, modes in ((16, ("bilinear", "nearest", "bicubic")), (20, ("linear", "cubic")))
        for mode in modes
        for padding in ("zeros", "border", "reflection")
        for align in (0, 1)
    ),
    Case("GridSample", [X5, noise(1, 3, 2, 3, 3, seed=1, low=-1.2, high=1.2)], opset=20),
    Case("com.microsoft::GridSample", [X4, GRID], {"mode": "bilinear", "padding_mode": "border"}),
    *(Case("AffineGrid", [noise(2, 2, 3), ints(2, 3, 4, 5)], {"align_corners": kind}, opset=20) for kind in (0, 1)),
    Case("AffineGrid", [noise(2, 3, 4), ints(2, 3, 2, 4, 5)], opset=20),
]

BOXES = np.array([[0, 0, 3, 4], [1.2, 0.4, 5.6, 6.1], [2, 2, 2.5, 2.2], [-1, -1, 9, 9]], np.float32)
SAMPLES = ints(0, 1, 1, 0)
SIZE = {"output_height": 3, "output_width": 2}
CORNERS = np.sort(noise(2, 6, 2, 2, low=0, high=4), axis=2).reshape(2, 6, 4)
SCORES = noise(2, 3, 6, seed=1, low=0, high=1)
LIMITS = [ints(3), np.array([0.3], np.float32), np.array([0.2], np.float32)]
BOXED = [
    Case("RoiAlign", [X4, BOXES, SAMPLES], SIZE, opset=10),
    Case("RoiAlign", [X4, BOXES, SAMPLES], {**SIZE, "spatial_scale": 0.5, "sampling_ratio": 2}),
    Case("RoiAlign", [X4, BOXES, SAMPLES], {**SIZE, "coordinate_transformation_mode": "output_half_pixel"}),
    Case("RoiAlign", [X4, BOXES, SAMPLES], {**SIZE, "mode": "max", "sampling_ratio": 2}),
    Case("RoiAlign", [X4, BOXES, SAMPLES], {**SIZE, "mode": "max"}, opset=10),
    Case(
        "MaxRoiPool",
        [X4, np.array([[0, 0, 0, 3, 4], [1, 1, 0, 5, 6], [1, 2, 2, 2, 2]], np.float32)],
        {"pooled_shape": [3, 2]},
    ),
    Case("NonMaxSuppression", [CORNERS, SCORES, *LIMITS]),
    Case("NonMaxSuppression", [CORNERS, SCORES, ints(9)], opset=11),
    Case("NonMaxSuppression", [CORNERS[..., [2, 1, 0, 3]], SCORES, ints(9), scalar(0.5)]),
    Case("NonMaxSuppression", [noise(2, 6, 4, low=0.5, high=2), SCORES, *LIMITS], {"center_point_box": 1}),
    Case("NonMaxSuppression", [CORNERS, SCORES]),
]


def offsets(groups: int, taps: int, *sizes: int) -> np.ndarray:
    return noise(2, 2 * groups * taps, *sizes, seed=3, low=-1.5, high=1.5)


DEFORMED = [
    Case("DeformConv", [X4, noise(6, 4, 3, 3, seed=1), offsets(1, 9, 7, 6), noise(6)], {"pads": [1, 1, 1, 1]}, 19),
    Case(
        "DeformConv",
        [X4, noise(6, 2, 2, 3, seed=1), offsets(2, 6, 4, 3), noise(6), noise(2, 12, 4, 3, seed=4)],
        {"group": 2, "offset_group": 2, "strides": [2, 2], "pads": [0, 1, 1, 1], "kernel_shape": [2, 3]},
        opset=19,
    ),
    Case("DeformConv", [X4, noise(2, 4, 2, 2), offsets(1, 4, 5, 4)], {"dilations": [2, 2]}, 19),
]

MAXIMA = np.array([[[[0, 3], [9, 14]]], [[[16, 19], [24, 30]]]])
PLACING = [
    Case("Col2Im", [noise(2, 12, 30), ints(6, 7), ints(2, 2)], opset=18),
    Case("Col2Im", [noise(2, 12, 24), ints(6, 7), ints(2, 3)], {"pads": [1, 0, 2, 1], "strides": [2, 1]}, opset=18),
    Case("Col2Im", [noise(2, 12, 15), ints(6, 7), ints(2, 3)], {"dilations": [1, 2]}, opset=18),
    Case("CenterCropPad", [X4, ints(2, 4, 5, 9)], opset=18),
    Case("CenterCropPad", [X4, ints(4, 11)], {"axes": [-2, 3]}, opset=18),
    Case("CenterCropPad", [X3, ints(7, 6)], {"axes": [0, 2]}, opset=18),
    Case("MaxUnpool", [noise(2, 1, 2, 2), MAXIMA], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    Case(
        "MaxUnpool",
        [noise(1, 1, 2, 2), np.array([[[[5, 7], [13, 15]]]], np.int64), ints(1, 1, 5, 5)],
        {"kernel_shape": [2, 2], "strides": [2, 2]},
    ),
    Case("TensorScatter", [noise(2, 3, 6, 4), noise(2, 3, 2, 4, seed=1)], opset=24),
    Case("TensorScatter", [noise(2, 3, 6, 4), noise(2, 3, 2, 4, seed=1), ints(4, 1)], opset=24),
    Case("TensorScatter", [noise(2, 6, 3), noise(2, 2, 3, seed=1), ints(5, 1)], {"axis": 1, "mode": "circular"}, 24),
    Case("Unique", [whole(20, low=0, high=6)], outputs=4),
    Case("Unique", [whole(20, low=0, high=6).astype(np.float32).reshape(4, 5)], {"sorted": 0}, outputs=4),
    Case("Unique", [whole(8, 3, low=0, high=2)], {"axis": 0}, outputs=4),
    Case("Unique", [whole(2, 9, low=0, high=2)], {"axis": 1, "sorted": 0}, outputs=4),
    Case("CumProd", [X3, np.array(1, np.int64)], opset=26, reference=True),
    Case("CumProd", [X3, np.array(-1, np.int64)], {"exclusive": 1, "reverse": 1}, opset=26, reference=True),
    Case("CumSum", [X3, np.array(1, np.int64)], {"exclusive": 1}),
    Case("Det", [noise(2, 4, 4)]),
    Case("Det", [noise(3, 3)], opset=11),
]

COMPLEX = noise(2, 9, 2)
SIGNALS = [
    *(Case("DFT", [COMPLEX], {"inverse": kind, "axis": 1}) for kind in (0, 1)),
    Case("DFT", [noise(2, 9, 1)], {"onesided": 1}),
    Case("DFT", [noise(2, 9, 1), np.array(6, np.int64)]),
    Case("DFT", [noise(2, 9, 4, 1), np.array(12, np.int64), np.array(1, np.int64)], {"onesided": 1}, opset=20),
    Case("DFT", [noise(2, 5, 2)], {"inverse": 1, "onesided": 1}, opset=20),
    Case("DFT", [noise(2, 5, 2), np.array(9, np.int64)], {"inverse": 1, "onesided": 1}, opset=20),
    Case("STFT", [noise(2, 20, 1), np.array(4, np.int64), noise(8), np.array(8, np.int64)]),
    Case("STFT", [noise(2, 20, 1), np.array(4, np.int64), noise(8)], {"onesided": 0}),
    Case("STFT", [noise(2, 20, 1), np.array(3, np.int64), None, np.array(6, np.int64)]),
    *(
        Case(op, [np.array(9, np.int64)], {"periodic": kind})
        for op in ("HannWindow", "HammingWindow", "BlackmanWindow")
        for kind in (0, 1)
    ),
]

CASES = [*SAMPLING, *BOXED, *DEFORMED, *PLACING, *SIGNALS]


@pytest.mark.parametrize(("case", "constant"), ways(CASES), ids=str)
def test_a_rule_answers_like_onnx(case: Case, constant: bool) -> None:
    check(case, constant)
