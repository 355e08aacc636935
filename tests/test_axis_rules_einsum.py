"""Einsum: letters that stay, letters that are summed over, broadcasting, ellipses."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from darwinc.axis_rules.einsum import parse as parse_equation
from darwinc.channels import analyse
from darwinc.cost import CostModel
from tests.axis_cases import Case, Held, check, check_held
from tests.surgery import parse

CASES = [
    Case(
        "linear_layers",
        """(float[2,7,5] x, float[5,6] w, float[6,4] v) => (float[2,7,4] y) {
            a = Einsum<equation: string = "bsi,io->bso">(x, w)
            e = Sigmoid(a)
            y = Einsum<equation: string = "...i,io">(e, v)
        }
        """,
        {"w:1": [1, 4]},
        {"w": "float32[5, 4]", "v": "float32[4, 4]"},
    ),
    Case(
        "heads",
        """(float[2,7,5] x, float[5,3,4] w, float[5,3,4] k, float[3,4,6] v) => (float[2,7,6] y) {
            a = Einsum<equation: string = "bsi,ihd->bhsd">(x, w)
            c = Einsum<equation: string = "bsi,ihd->bhsd">(x, k)
            s = Einsum<equation: string = "bhqd,bhkd->bhqk">(a, c)
            p = Softmax(s)
            m = Einsum<equation: string = "bhqk,bhkd->bqhd">(p, c)
            y = Einsum<equation: string = "bqhd,hdo->bqo">(m, v)
        }
        """,
        {"w:1": [1], "w:2": [0, 2]},
        {"w": "float32[5, 2, 2]", "k": "float32[5, 2, 2]", "v": "float32[2, 2, 6]"},
    ),
    Case(
        "sum_over_silent_channels",
        """(float[2,3,8,8] x, float[6,3,1,1] w) => (float[2,8,8] y) {
            a = Conv(x, w)
            y = Einsum<equation: string = "bc...->b...">(a)
        }
        """,
        {"w": [2]},
        {"w": "float32[5, 3, 1, 1]"},
    ),
    Case(
        "three_operands",
        """(float[2,5] x, float[5,6] w, float[6] g, float[6,4] v) => (float[2,4] y) {
            a = Einsum<equation: string = "ni,io->no">(x, w)
            y = Einsum<equation: string = "nc,c,co->no">(a, g, v)
        }
        """,
        {"w:1": [1]},
        {"w": "float32[5, 5]", "g": "float32[5]", "v": "float32[5, 4]"},
    ),
]

HELD = [
    Held(
        "sum_over_what_is_not_zero",
        """(float[2,3,8,8] x, float[6,3,1,1] w) => (float[2,8,8] y) {
            a = Conv(x, w)
            e = Sigmoid(a)
            y = Einsum<equation: string = "bcij->bij">(e)
        }
        """,
        "two computed tensors are multiplied along this axis",
    ),
    Held(
        "diagonal",
        """(float[2,5] x, float[5,6] w, float[6,4] v) => (float[6] y) {
            a = MatMul(x, w)
            t = Transpose(a)
            m = MatMul(t, a)
            y = Einsum<equation: string = "ii->i">(m)
        }
        """,
        "takes a diagonal of this axis",
        axis=1,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_cut_changes_this_and_nothing_else(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("held", HELD, ids=lambda held: held.name)
def test_what_cannot_be_followed_is_held(held: Held) -> None:
    check_held(held)


@pytest.mark.parametrize(
    ("equation", "ranks", "letters"),
    [
        ("ij,jk->ik", (2, 2), ([["i", "j"], ["j", "k"]], ["i", "k"])),
        ("kj,ji", (2, 2), ([["k", "j"], ["j", "i"]], ["i", "k"])),
        ("...i, io -> ...o", (3, 2), ([["-2", "-1", "i"], ["i", "o"]], ["-2", "-1", "o"])),
        ("b...c", (4,), ([["b", "-2", "-1", "c"]], ["-2", "-1", "b", "c"])),
    ],
)
def test_an_equation_names_every_axis(
    equation: str, ranks: tuple[int, ...], letters: tuple[list[list[str]], list[str]]
) -> None:
    assert parse_equation(equation, ranks) == letters


@pytest.mark.parametrize(("equation", "ranks"), [("ij,jk->ik", (2,)), ("ijk->i", (2,)), ("ij->i", (3,))])
def test_an_equation_for_other_operands_is_refused(equation: str, ranks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="an equation for"):
        parse_equation(equation, ranks)


def test_every_combination_of_letters_is_multiplied() -> None:
    channels = analyse(ir.from_proto(parse(CASES[0].text)))
    assert CostModel(channels).macs(channels.nobody()) == 2 * 7 * 5 * 6 + 2 * 7 * 6 * 4
