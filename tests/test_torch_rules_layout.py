"""Torch rules that move, pick or resize elements."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from tests.operator_cases import (
    X3,
    X4,
    Case,
    check,
    flags,
    ints,
    noise,
    scalar,
    ways,
    whole,
)

LAYOUT = [
    Case("Col2Im", [noise(1, 16, 4), ints(3, 3, 2), ints(2, 2, 2)], opset=18),
    Case("SpaceToDepth", [noise(1, 2, 4, 6)], {"blocksize": 2, "mode": "CRD"}, opset=28, reference=True),
    Case("Reshape", [X3, ints(0, -1, 3)]),
    Case("Reshape", [X3, ints(8, 9)], opset=7),
    Case("Reshape", [noise(0, 3), ints(3, 0)], {"allowzero": 1}),
    Case("Flatten", [X4]),
    *(Case("Flatten", [X4], {"axis": axis}) for axis in (0, 2, 4, -1)),
    Case("Squeeze", [noise(1, 3, 1, 2)]),
    Case("Squeeze", [noise(1, 3, 1, 2), ints(-2)]),
    Case("Squeeze", [noise(1, 3, 1, 2)], {"axes": [0, 2]}, opset=11),
    Case("Unsqueeze", [noise(3, 2), ints(-1, 0)]),
    Case("Unsqueeze", [noise(3, 2)], {"axes": [3, 1]}, opset=11),
    Case("Transpose", [X3]),
    Case("Transpose", [X4], {"perm": [0, 2, 3, 1]}),
    Case("Concat", [X3, noise(2, 1, 9), noise(2, 3, 9)], {"axis": 1}),
    Case("Concat", [X3, X3], {"axis": -1}, opset=7),
    Case("Split", [X3, ints(1, 3)], {"axis": 1}, outputs=2),
    Case("Split", [X3], {"axis": 1, "split": [3, 1]}, opset=11, outputs=2),
    Case("Split", [X3], {"axis": -1}, opset=11, outputs=3),
    Case("Split", [X3], {"axis": 2, "num_outputs": 5}, opset=18, outputs=5),
    Case("Slice", [X4, ints(1, -3), ints(3, 100), ints(1, 2)]),
    Case("Slice", [X4, ints(0, 1, 2), ints(1, 2, 5)]),
    Case("Slice", [X4, ints(-1, 5), ints(-100, 0), ints(2, 3), ints(-2, -1)]),
    Case("Slice", [X4, ints(2), ints(-1), ints(-2), ints(2)]),
    Case("Slice", [X4, ints(3), ints(1), ints(1)]),
    Case("Slice", [X4, ints(1), ints(3), ints(1), ints(-1)]),
    Case("Slice", [X4], {"starts": [1, 0], "ends": [3, -1], "axes": [1, 3]}, opset=9),
    Case("Pad", [X4, ints(0, 0, 1, 2, 0, 0, 3, 0), scalar(1.5)]),
    Case("Pad", [X4, ints(0, 1, -1, 2, 0, 0, 3, -2)]),
    Case("Pad", [X4, ints(1, 2, 0, 1), scalar(0.5), ints(-1, 1)], opset=18),
    Case("Pad", [X4], {"pads": [0, 0, 1, 2, 0, 0, 3, 0], "value": 0.5}, opset=9),
    *(Case("Pad", [X4, ints(1, 0, 2, 3, 0, 2, 1, 4)], {"mode": mode}, opset=19) for mode in ("edge", "wrap")),
    Case("Pad", [X4, ints(1, 0, 2, 3, 0, 2, 1, 4)], {"mode": "reflect"}),
    Case("Pad", [X4], {"pads": [0, 0, 1, 2, 0, 0, 3, 0], "mode": "reflect"}, opset=9),
    Case("Expand", [noise(3, 1), ints(2, 1, 4)]),
    Case("Expand", [noise(3, 4), ints(1)]),
    Case("Tile", [noise(2, 3), ints(2, 3)]),
    Case("DepthToSpace", [noise(2, 8, 3, 4)], {"blocksize": 2}, opset=7),
    Case("DepthToSpace", [noise(2, 8, 3, 4)], {"blocksize": 2, "mode": "CRD"}),
    Case("SpaceToDepth", [noise(2, 3, 4, 6)], {"blocksize": 2}),
    Case("Dropout", [X3]),
    Case("Dropout", [X3], {"ratio": 0.7}, opset=7),
    Case("Dropout", [X3, scalar(0.7)], outputs=2),
]

INDEXING = [
    Case("Gather", [X3, ints(3, -1, 0)], {"axis": 1}),
    Case("Gather", [X3, np.array([[0, 1], [-1, 2]], np.int32)], {"axis": 2}),
    Case("Gather", [X3, np.array(-2, np.int64)], {"axis": -1}),
    Case("Gather", [X3, np.array(1, np.int64)]),
    Case("GatherElements", [X3, whole(2, 4, 2, low=-9)], {"axis": 2}),
    Case("GatherND", [X3, np.array([[0, 1], [-1, 3]], np.int64)]),
    Case("GatherND", [X3, np.array([[[1]], [[-1]]], np.int64)], {"batch_dims": 1}),
    Case("ScatterElements", [X3, whole(2, 1, 2, low=0, high=3), noise(2, 1, 2)], {"axis": 1}),
    Case("ScatterElements", [X3, whole(2, 4, 3, low=-9), noise(2, 4, 3)], {"axis": 2, "reduction": "add"}, opset=18),
    Case("ScatterElements", [X3, whole(2, 4, 3, low=-9), noise(2, 4, 3)], {"axis": 2, "reduction": "max"}, opset=18),
    Case("Scatter", [X3, ints(2).reshape(1, 1, 1), noise(1, 1, 1)], {"axis": 1}, opset=10),
    Case("ScatterND", [X3, np.array([[0, 1], [-1, 3]], np.int64), noise(2, 9)]),
    *(
        Case(
            "ScatterND",
            [X3, np.array([[0, 1], [-1, 3], [0, 1]], np.int64), noise(3, 9)],
            {"reduction": reduction},
            opset=18,
        )
        for reduction in ("add", "mul", "max", "min")
    ),
    Case("Compress", [X3, np.array([True, False, True])], {"axis": 1}),
    Case("Compress", [noise(2, 3), np.array([True, False, True, True])]),
    Case("NonZero", [flags(3, 4)]),
    Case("OneHot", [ints(0, -1, 5, 2), ints(4), noise(2)]),
    Case("OneHot", [ints(0, 1, 2), ints(3), ints(5, 7)], {"axis": 0}),
    Case("Trilu", [noise(2, 4, 5), np.array(1, np.int64)]),
    Case("Trilu", [noise(4, 4)], {"upper": 0}),
    Case("ReverseSequence", [noise(4, 3, 2), ints(4, 1, 3)]),
    Case("ReverseSequence", [noise(3, 4), ints(4, 1, 3)], {"batch_axis": 0, "time_axis": 1}),
    Case("Shape", [X4]),
    Case("Shape", [X4], {"start": 1, "end": -1}),
    Case("Size", [X4]),
    Case("Range", [scalar(1.0), scalar(3.1), scalar(0.5)]),
    Case("Range", [np.array(10, np.int64), np.array(1, np.int64), np.array(-3, np.int64)]),
    Case("ConstantOfShape", [ints(2, 3)]),
    Case("ConstantOfShape", [ints(2, 3)], {"value": helper.make_tensor("v", onnx.TensorProto.INT64, [1], [7])}),
    Case("EyeLike", [noise(3, 4)], {"k": 1}),
    Case("EyeLike", [noise(3, 4)], {"k": -1, "dtype": onnx.TensorProto.INT64}),
]

IMAGE = noise(1, 2, 5, 6)
NEAREST = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
COORDINATES = ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners", "half_pixel_symmetric"]
RESIZING = [
    *(
        Case(
            "Resize",
            [IMAGE, None, np.array([1, 1, *scales], np.float32)],
            {"mode": "nearest", "nearest_mode": nearest, "coordinate_transformation_mode": how},
            19,
        )
        for nearest in NEAREST
        for how in COORDINATES
        for scales in ((2.0, 3.0), (0.7, 1.7))
    ),
    *(
        Case(
            "Resize",
            [IMAGE, None, np.array([1, 1, *scales], np.float32)],
            {"mode": mode, "coordinate_transformation_mode": how},
            19,
        )
        for mode in ("linear", "cubic")
        for how in COORDINATES
        for scales in ((2.0, 3.0), (0.7, 1.7))
    ),
    *(Case("Resize", [IMAGE, None, None, ints(1, 2, 7, 4)], {"mode": mode}) for mode in ("nearest", "linear", "cubic")),
    *(
        Case("Resize", [IMAGE, None, None, ints(1, 2, 1, 1)], {"mode": "linear", "coordinate_transformation_mode": how})
        for how in COORDINATES[:4]
    ),
    *(
        Case(
            "Resize",
            [IMAGE, None, None, ints(9, 9)],
            {"mode": "linear", "axes": [2, 3], "keep_aspect_ratio_policy": policy},
            18,
        )
        for policy in ("not_larger", "not_smaller")
    ),
    *(
        Case("Resize", [IMAGE, None, None, ints(1, 2, 3, 4)], {"mode": mode, "antialias": 1}, 18)
        for mode in ("linear", "cubic")
    ),
    Case(
        "Resize", [IMAGE, None, None, ints(1, 2, 9, 4)], {"mode": "cubic", "exclude_outside": 1, "cubic_coeff_a": -0.5}
    ),
    Case(
        "Resize",
        [
            IMAGE,
            noise(8, low=0, high=1) * 0 + np.array([0, 0, 0.2, 0.1, 1, 1, 0.9, 1.3], np.float32),
            None,
            ints(1, 2, 4, 7),
        ],
        {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 0.5},
    ),
    Case(
        "Resize",
        [IMAGE, np.array([], np.float32), np.array([1, 1, 2, 2], np.float32)],
        {"mode": "nearest", "coordinate_transformation_mode": "tf_half_pixel_for_nn"},
        11,
    ),
    Case("Resize", [IMAGE, np.array([1, 1, 2, 2], np.float32)], {"mode": "linear"}, 10),
    Case("Resize", [IMAGE, np.array([1, 1, 0.5, 0.7], np.float32)], {"mode": "nearest"}, 10),
    Case("Resize", [noise(2, 3, 5), None, np.array([1, 1, 2], np.float32)], {"mode": "linear"}, reference=True),
    Case("Upsample", [IMAGE, np.array([1, 1, 2, 3], np.float32)], opset=9),
    Case("Upsample", [IMAGE], {"scales": [1.0, 1.0, 2.0, 2.0], "mode": "linear"}, opset=7),
]

CASES = [*LAYOUT, *INDEXING, *RESIZING]


@pytest.mark.parametrize(("case", "constant"), ways(CASES), ids=str)
def test_a_rule_answers_like_onnx(case: Case, constant: bool) -> None:
    check(case, constant)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 6), st.integers(-9, 9), st.integers(-9, 9), st.integers(-3, 3).filter(bool))
def test_any_slice_answers_like_onnx_runtime(size: int, start: int, end: int, step: int) -> None:
    check(Case("Slice", [noise(2, size), ints(start), ints(end), ints(1), ints(step)]))
