"""LSTM, GRU and RNN: hidden units of all gates and directions, their states, and what reads them."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from darwinc.channels import analyse
from darwinc.cost import CostModel
from tests.axis_cases import Case, Held, check, check_held
from tests.surgery import parse

CASES = [
    Case(
        "lstm",
        """(float[5,2,3] x, float[1,16,3] w, float[1,16,4] r, float[1,32] b, float[4,6] v) => (float[5,1,2,6] y) {
            a, h, c = LSTM<hidden_size: int = 4>(x, w, r, b)
            y = MatMul(a, v)
        }
        """,
        {"w:1": [1]},
        {
            "w": "float32[1, 12, 3]",
            "r": "float32[1, 12, 3]",
            "b": "float32[1, 24]",
            "v": "float32[3, 6]",
            "LSTM_0.hidden_size": "3",
        },
    ),
    Case(
        "lstm_both_ways_with_states_and_peepholes",
        """(float[5,2,3] x, float[2,16,3] w, float[2,16,4] r, float[2,32] b, float[2,2,4] h0, float[2,2,4] c0,
            float[2,12] p, float[8,6] v) => (float[5,2,6] y) <int64[3] s = {0, 0, -1}> {
            a, h, c = LSTM<hidden_size: int = 4, direction: string = "bidirectional">(x, w, r, b, , h0, c0, p)
            t = Transpose<perm: ints = [0, 2, 1, 3]>(a)
            q = Reshape(t, s)
            y = MatMul(q, v)
        }
        """,
        {"w:1": [0, 3]},
        {
            "w": "float32[2, 8, 3]",
            "r": "float32[2, 8, 2]",
            "b": "float32[2, 16]",
            "h0": "float32[2, 2, 2]",
            "c0": "float32[2, 2, 2]",
            "p": "float32[2, 6]",
            "v": "float32[4, 6]",
            "LSTM_0.hidden_size": "2",
        },
    ),
    Case(
        "lstm_last_states_are_silent",
        """(float[5,2,3] x, float[1,16,3] w, float[1,16,4] r, float[1,32] b) => (float[1,2,1] y, float[1,2,1] z)
            <int64[1] k = {-1}> {
            a, h, c = LSTM<hidden_size: int = 4>(x, w, r, b)
            y = ReduceSum(h, k)
            z = ReduceL2<axes: ints = [-1]>(c)
        }
        """,
        {"w:1": [2]},
        {
            "w": "float32[1, 12, 3]",
            "r": "float32[1, 12, 3]",
            "b": "float32[1, 24]",
            "LSTM_0.hidden_size": "3",
        },
    ),
    Case(
        "lstm_only_the_last_state",
        """(float[5,2,3] x, float[3,4] u, float[1,16,4] w, float[1,16,4] r, float[4,6] v) => (float[1,2,6] y) {
            e = MatMul(x, u)
            _, h = LSTM<hidden_size: int = 4>(e, w, r)
            y = MatMul(h, v)
        }
        """,
        {"w:1": [1], "u:1": [0]},
        {
            "u": "float32[3, 3]",
            "w": "float32[1, 12, 3]",
            "r": "float32[1, 12, 3]",
            "v": "float32[3, 6]",
            "LSTM_1.hidden_size": "3",
        },
    ),
    Case(
        "gru_reads_channels",
        """(float[5,2,3] x, float[3,5] u, float[1,12,5] w, float[1,12,4] r, float[1,24] b, float[4,6] v) =>
            (float[5,1,2,6] y) {
            e = MatMul(x, u)
            a = GRU<hidden_size: int = 4, linear_before_reset: int = 1>(e, w, r, b)
            y = MatMul(a, v)
        }
        """,
        {"u:1": [1, 4], "w:1": [2]},
        {
            "u": "float32[3, 3]",
            "w": "float32[1, 9, 3]",
            "r": "float32[1, 9, 3]",
            "b": "float32[1, 18]",
            "v": "float32[3, 6]",
            "GRU_1.hidden_size": "3",
        },
    ),
    Case(
        "rnn",
        """(float[5,2,3] x, float[1,4,3] w, float[1,4,4] r, float[1,8] b, float[1,2,4] h0, float[4,6] v) =>
            (float[1,2,6] y) {
            _, h = RNN<hidden_size: int = 4>(x, w, r, b, , h0)
            y = MatMul(h, v)
        }
        """,
        {"w:1": [3]},
        {
            "w": "float32[1, 3, 3]",
            "r": "float32[1, 3, 3]",
            "b": "float32[1, 6]",
            "h0": "float32[1, 2, 3]",
            "v": "float32[3, 6]",
            "RNN_0.hidden_size": "3",
        },
    ),
    Case(
        "states_of_a_computed_size",
        """(float[5,N,3] x, float[1,16,3] w, float[1,16,4] r, float[4,6] v) => (float[5,1,N,6] y)
            <int64[1] one = {1}, int64[1] units = {4}> {
            s = Shape<start: int = 1, end: int = 2>(x)
            k = Concat<axis: int = 0>(one, s, units)
            z = ConstantOfShape(k)
            a = LSTM<hidden_size: int = 4>(x, w, r, , , z, z)
            y = MatMul(a, v)
        }
        """,
        {"w:1": [1]},
        {
            "units": "[3]",
            "w": "float32[1, 12, 3]",
            "r": "float32[1, 12, 3]",
            "v": "float32[3, 6]",
            "LSTM_3.hidden_size": "3",
        },
    ),
    Case(
        "stacked",
        """(float[5,2,3] x, float[2,16,3] w, float[2,16,4] r, float[1,12,8] w2, float[1,12,3] r2, float[3,6] v) =>
            (float[5,1,2,6] y) <int64[3] s = {5, 2, 8}> {
            a = LSTM<hidden_size: int = 4, direction: string = "bidirectional">(x, w, r)
            t = Transpose<perm: ints = [0, 2, 1, 3]>(a)
            q = Reshape(t, s)
            c = LSTM<hidden_size: int = 3>(q, w2, r2)
            y = MatMul(c, v)
        }
        """,
        {"w:1": [1], "w2:1": [0]},
        {
            "s": "[5, 2, 6]",
            "w": "float32[2, 12, 3]",
            "r": "float32[2, 12, 3]",
            "w2": "float32[1, 8, 6]",
            "r2": "float32[1, 8, 2]",
            "v": "float32[2, 6]",
            "LSTM_0.hidden_size": "3",
            "LSTM_3.hidden_size": "2",
        },
    ),
]

HELD = [
    Held(
        "state_from_outside",
        """(float[5,2,3] x, float[1,2,4] xh, float[1,12,3] w, float[1,12,4] r, float[4,6] v) => (float[5,1,2,6] y) {
            a = GRU<hidden_size: int = 4>(x, w, r, , , xh)
            y = MatMul(a, v)
        }
        """,
        "is combined with positions that can't be removed",
        axis=1,
    ),
    Held(
        "activation_that_moves_zero",
        """(float[5,2,3] x, float[1,4,3] w, float[1,4,4] r) => (float[1,2,1] y) <int64[1] k = {-1}> {
            _, h = RNN<hidden_size: int = 4, activations: strings = ["Sigmoid"]>(x, w, r)
            y = ReduceSum(h, k)
        }
        """,
        "reduces over this axis",
        axis=1,
    ),
    Held(
        "time",
        """(float[3,4] x, float[5,3] w, float[1,8,1] u, float[1,8,8] r) => (float[1,4,8] y) <int64[3] s = {5, 4, 1}> {
            m = MatMul(w, x)
            q = Reshape(m, s)
            _, y = RNN<hidden_size: int = 8>(q, u, r)
        }
        """,
        "is the order in time",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_cut_changes_this_and_nothing_else(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("held", HELD, ids=lambda held: held.name)
def test_what_cannot_be_followed_is_held(held: Held) -> None:
    check_held(held)


def test_every_step_multiplies_by_both_matrices() -> None:
    channels = analyse(ir.from_proto(parse(CASES[0].text)))
    steps, inputs, units, outputs = 5 * 2, 3, 4, 6
    wanted = steps * (4 * units * inputs + 4 * units * units + units * outputs)
    assert CostModel(channels).macs(channels.nobody()) == wanted


def test_directions_stay() -> None:
    text = """(float[5,2,3] x, float[2,12,3] w, float[2,12,4] r, float[4,6] v) => (float[5,2,2,6] y)
        <int64[3] n = {2, 2, 4}> {
        z = ConstantOfShape(n)
        a = GRU<hidden_size: int = 4, direction: string = "bidirectional">(x, w, r, , , z)
        y = MatMul(a, v)
    }"""
    (group,) = analyse(ir.from_proto(parse(text))).groups
    assert {(member.tensor, member.axis) for member in group.members} == {
        ("w", 1),
        ("r", 1),
        ("r", 2),
        ("v", 0),
        ("z", 2),
    }
