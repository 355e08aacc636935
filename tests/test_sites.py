"""Where a weight mixes channels: matrices, rows and patches against what torch computes."""

from __future__ import annotations

import onnx_ir as ir
import pytest
import torch

from darwinc.calibrators.sites import Site, find_sites
from darwinc.torch_graph import TorchGraph
from tests.small_models import build, images, stored

LINEAR_MAPS = {
    "1-D": (
        "float[2,4,11] x, float[6,4,3] w, float[6] b",
        "Conv<pads = [2, 0], strides = [2], dilations = [2]>(x, w, b)",
    ),
    "2-D": (
        "float[2,4,9,7] x, float[6,4,3,2] w",
        "Conv<pads = [1, 0, 2, 1], strides = [2, 1], dilations = [1, 3]>(x, w)",
    ),
    "3-D": ("float[2,2,5,4,6] x, float[3,2,2,3,2] w, float[3] b", "Conv<pads = [1, 0, 0, 0, 1, 2]>(x, w, b)"),
    "groups": ("float[2,6,7,7] x, float[4,3,3,3] w", "Conv<group = 2, pads = [1, 1, 1, 1], strides = [3, 2]>(x, w)"),
    "depthwise": ("float[2,4,7,7] x, float[8,1,3,3] w, float[8] b", "Conv<group = 4>(x, w, b)"),
    "same": ("float[2,4,7,7] x, float[6,4,2,3] w", 'Conv<auto_pad = "SAME_LOWER", strides = [2, 2]>(x, w)'),
    "transposed": ("float[2,4,5,5] x, float[4,3,1,1] w", "ConvTranspose(x, w)"),
    "transposed groups": ("float[2,4,5,5] x, float[4,3,1,1] w", "ConvTranspose<group = 2>(x, w)"),
    "gemm": ("float[5,4] x, float[4,6] w, float[6] b", "Gemm<alpha = 0.5, beta = 2.0>(x, w, b)"),
    "gemm both turned": ("float[4,5] x, float[6,4] w", "Gemm<transA = 1, transB = 1>(x, w)"),
    "gemm weight left": ("float[5,4] x, float[6,4] w", "Gemm<transB = 1>(w, x)"),
    "gemm weight left, turned": ("float[4,5] x, float[4,6] w", "Gemm<transA = 1, alpha = 3.0>(w, x)"),
    "matmul": ("float[2,3,5,4] x, float[4,6] w", "MatMul(x, w)"),
    "matmul weight left": ("float[2,3,4,5] x, float[6,4] w", "MatMul(w, x)"),
}


def linear_map(name: str) -> tuple[TorchGraph, Site, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The twin of one node, its site, its data, its weight, and what it gives without a bias."""
    operands, call = LINEAR_MAPS[name]
    text = f"({operands}) => (y) {{ y = {call}\n }}"
    model = build(text, given={name: 0 * array for name, array in stored(build(text)).items() if name == "b"})
    twin = TorchGraph(ir.from_proto(model))
    shape = [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim]
    x = images(*shape)
    y = twin.detached({"x": x})["y"]
    return twin, find_sites(twin)["y"], torch.from_numpy(x), twin.constant("w").detach(), y


@pytest.mark.parametrize("name", LINEAR_MAPS)
def test_a_weight_survives_being_seen_as_a_matrix(name: str) -> None:
    _, site, _, weight, _ = linear_map(name)
    torch.testing.assert_close(site.unmatrix(site.matrix(weight), weight), weight, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", [name for name in LINEAR_MAPS if "transposed" not in name])
def test_a_site_is_the_linear_map_that_torch_computes(name: str) -> None:
    _, site, x, weight, y = linear_map(name)
    matrix = site.matrix(weight)
    every = torch.arange(site.positions(y))
    for chosen in (every, torch.tensor([0]), every.flip(0)[:3]):
        rows, targets = site.patches(x, weight, y, chosen), site.targets(y, chosen)
        torch.testing.assert_close(rows @ matrix.flatten(2).transpose(1, 2), targets, rtol=1e-5, atol=1e-5)
    flat = site.output_rows(y).reshape(-1, site.groups, matrix.shape[1]).transpose(0, 1)
    taken = site.targets(y, every)
    torch.testing.assert_close(flat.sum(1), taken.sum(1), rtol=1e-5, atol=1e-4)
    assert flat.shape == taken.shape


@pytest.mark.parametrize("name", ["transposed", "transposed groups", "matmul", "gemm both turned", "gemm weight left"])
def test_rows_without_taps_meet_the_matrix(name: str) -> None:
    _, site, x, weight, y = linear_map(name)
    rows = site.input_rows(x).reshape(-1, site.groups, x.numel() // len(site.input_rows(x)) // site.groups)
    made = torch.einsum("rgc,goc->rgo", rows, site.matrix(weight)[..., 0])
    torch.testing.assert_close(made.flatten(1), site.output_rows(y), rtol=1e-5, atol=1e-5)


def test_two_computed_operands_and_two_constants_are_no_sites() -> None:
    nodes = "a = MatMul(x, x)\n b = MatMul(m, w)\n y = MatMul(a, b)\n"
    model = build(f"(float[2,3,3] x, float[3,3] m, float[3,3] w) => (y) {{ {nodes} }}")
    assert list(find_sites(TorchGraph(ir.from_proto(model)))) == ["y"]


def test_a_stack_of_matrices_is_no_site() -> None:
    """Each matrix of a stack meets data of its own: no one map of rows says what it does."""
    text = """(float[N,3,4,5] x, float[3,5,2] w, float[2,6] v) => (float[N,3,4,6] y) {
        h = MatMul(x, w)
        y = MatMul(h, v)
    }
    """
    assert set(find_sites(TorchGraph(ir.from_proto(build(text))))) == {"y"}
