"""What must be prunable: layers, norms, layouts, recurrent layers, quantised weights."""

from __future__ import annotations

from tests.random_graphs.family import Family, each

LAYERS = (
    Family(
        "feed-forward neurons",
        """(float[N,5,6] x, float[6,8] up, float[8] shift, float[8,4] down) => (float[N,5,4] y)
        <float root = {1.414}, float one = {1.0}> {
            product = MatMul(x, up)
            inner = Add(shift, product)
            quotient = Div(inner, root)
            error = Erf(quotient)
            gate = Add(error, one)
            outer = Mul(inner, gate)
            y = MatMul(outer, down)
        }""",
        ({"up": (6, 7), "shift": (7,), "down": (7, 4)},),
    ),
    Family(
        "gated feed-forward, halves of one layer",
        """(float[N,5,6] x, float[6,16] up, float[16] shift, float[8,4] down) => (float[N,5,4] y) {
            product = MatMul(x, up)
            inner = Add(product, shift)
            value, gate = Split<axis = -1>(inner)
            open = Sigmoid(gate)
            outer = Mul(value, open)
            y = MatMul(outer, down)
        }""",
        ({"up": (6, 14), "shift": (14,), "down": (7, 4)},),
    ),
    Family(
        "feed-forward through rows whose number is computed",
        """(float[N,5,6] x, float[8,6] up, float[8] shift, float[8,4] down) => (float[N,5,4] y)
        <int64 first = {0}, int64 second = {1}, int64[1] axis = {0}, int64[1] width = {8}, int64[2] flat = {-1, 6}> {
            rows = Reshape(x, flat)
            inner = Gemm<transB = 1>(rows, up, shift)
            shape = Shape(x)
            n = Gather(shape, first)
            t = Gather(shape, second)
            n1 = Unsqueeze(n, axis)
            t1 = Unsqueeze(t, axis)
            sizes = Concat<axis = 0>(n1, t1, width)
            tokens = Reshape(inner, sizes)
            outer = Relu(tokens)
            y = MatMul(outer, down)
        }""",
        ({"up": (7, 6), "shift": (7,), "down": (7, 4)},),
    ),
    Family(
        "Einsum",
        """(float[N,5,6] x, float[8,6] up, float[8,4] down) => (float[N,5,4] y) {
            inner = Einsum<equation = "btd,ed->bte">(x, up)
            outer = Relu(inner)
            y = Einsum<equation = "bte,ef->btf">(outer, down)
        }""",
        ({"up": (7, 6), "down": (7, 4)},),
    ),
    Family(
        "ONNX Runtime's fused layers",
        """(float[N,5,6] x, float[8,6] up, float[8] shift, float[8,4] down) => (float[N,5,4] y)
        <float[N,5,8] inner, float[N,5,8] outer> {
            inner = com.microsoft.FusedMatMul<transB = 1, alpha = 0.5>(x, up)
            outer = com.microsoft.BiasGelu(inner, shift)
            y = com.microsoft.FusedMatMul(outer, down)
        }""",
        ({"up": (7, 6), "shift": (7,), "down": (7, 4)},),
    ),
    Family(
        "FusedConv with a sum",
        """(float[N,3,4,4] x, float[8,3,1,1] w, float[8] b, float[8,3,1,1] v, float[2,8,1,1] u) => (float[N,2,4,4] y)
        <float[N,8,4,4] h> {
            side = Conv(x, v)
            h = com.microsoft.FusedConv<activation = "Relu", kernel_shape = [1, 1]>(x, w, b, side)
            y = Conv<kernel_shape = [1, 1]>(h, u)
        }""",
        ({"w": (7, 3, 1, 1), "b": (7,), "v": (7, 3, 1, 1), "u": (2, 7, 1, 1)},),
    ),
    Family(
        "squeeze and excitation",
        """(float[N,3,4,4] x, float[8,3,1,1] w, float[4,8,1,1] s, float[8,4,1,1] e, float[2,8,1,1] u)
        => (float[N,2,4,4] y) {
            h = Conv(x, w)
            pooled = GlobalAveragePool(h)
            squeezed = Conv(pooled, s)
            hidden = Relu(squeezed)
            excited = Conv(hidden, e)
            gate = Sigmoid(excited)
            g = Mul(h, gate)
            y = Conv(g, u)
        }""",
        (
            {"w": (7, 3, 1, 1), "s": (4, 7, 1, 1), "e": (7, 4, 1, 1), "u": (2, 7, 1, 1)},
            {"w": (8, 3, 1, 1), "s": (3, 8, 1, 1), "e": (8, 3, 1, 1)},
        ),
    ),
    Family(
        "grouped convolution between plain ones",
        """(float[N,3,4,4] x, float[8,3,1,1] w, float[12,4,1,1] g, float[2,12,1,1] u) => (float[N,2,4,4] y) {
            h = Conv(x, w)
            m = Conv<group = 2>(h, g)
            y = Conv(m, u)
        }""",
        ({"w": (6, 3, 1, 1), "g": (12, 3, 1, 1)}, {"g": (10, 4, 1, 1), "u": (2, 10, 1, 1)}),
    ),
    Family(
        "groups, channel shuffle, groups",
        """(float[N,3,4,4] x, float[12,3,1,1] w, float[12,4,1,1] g, float[6,6,1,1] k, float[2,6,1,1] u)
        => (float[N,2,4,4] y) <int64[5] apart = {0, 3, 4, 4, 4}, int64[4] joined = {0, -1, 4, 4}> {
            h = Conv(x, w)
            m = Conv<group = 3>(h, g)
            wide = Reshape(m, apart)
            turned = Transpose<perm = [0, 2, 1, 3, 4]>(wide)
            s = Reshape(turned, joined)
            z = Conv<group = 2>(s, k)
            y = Conv(z, u)
        }""",
        ({"w": (9, 3, 1, 1), "g": (12, 3, 1, 1)}, {"k": (4, 6, 1, 1), "u": (2, 4, 1, 1)}),
    ),
    Family(
        "channels picked by index",
        """(float[N,3,4,4] x, float[8,3,1,1] w, float[4,6,1,1] u) => (float[N,4,4,4] y)
        <int64[6] places = {7, 1, 0, 3, 6, 2}> {
            h = Conv(x, w)
            p = Gather<axis = 1>(h, places)
            y = Conv(p, u)
        }""",
        ({"w": (7, 3, 1, 1), "u": (4, 5, 1, 1)},),
    ),
    Family(
        "channels twice over",
        """(float[N,3,4,4] x, float[8,3,1,1] w, float[4,16,1,1] u) => (float[N,4,4,4] y)
        <int64[4] times = {1, 2, 1, 1}> {
            h = Conv(x, w)
            p = Tile(h, times)
            y = Conv(p, u)
        }""",
        ({"w": (7, 3, 1, 1), "u": (4, 14, 1, 1)},),
    ),
    Family(
        "shortcut by strided Slice and Pad",
        """(float[N,3,4,4] x, float[4,3,1,1] w, float[8,4,2,2] v, float[2,8,1,1] u) => (float[N,2,2,2] y)
        <int64[2] from = {0, 0}, int64[2] to = {4, 4}, int64[2] axes = {2, 3}, int64[2] by = {2, 2},
         int64[8] around = {0, 2, 0, 0, 0, 2, 0, 0}> {
            h = Conv(x, w)
            small = Slice(h, from, to, axes, by)
            padded = Pad(small, around)
            branch = Conv<strides = [2, 2]>(h, v)
            sum = Add(padded, branch)
            y = Conv(sum, u)
        }""",
        ({"w": (3, 3, 1, 1), "v": (7, 3, 2, 2), "u": (2, 7, 1, 1)},),
    ),
    Family(
        "channels chosen by Where",
        """(float[N,3,4,4] x, float[8,3,1,1] w, float[8,3,1,1] v, float[2,8,1,1] u) => (float[N,2,4,4] y)
        <bool[8,1,1] which = {1, 0, 0, 1, 1, 0, 1, 0}> {
            h = Conv(x, w)
            k = Conv(x, v)
            p = Where(which, h, k)
            y = Conv(p, u)
        }""",
        ({"w": (7, 3, 1, 1), "v": (7, 3, 1, 1), "u": (2, 7, 1, 1)},),
    ),
    Family(
        "channels last",
        """(float[N,3,4,4] x, float[8,3,1,1] w, float[8] scale, float[2,8,1,1] u) => (float[N,2,4,4] y) {
            h = Conv(x, w)
            last = Transpose<perm = [0, 2, 3, 1]>(h)
            scaled = Mul(last, scale)
            first = Transpose<perm = [0, 3, 1, 2]>(scaled)
            y = Conv(first, u)
        }""",
        ({"w": (7, 3, 1, 1), "scale": (7,), "u": (2, 7, 1, 1)},),
    ),
    Family(
        "groups of GroupNormalization",
        """(float[N,3,4,4] x, float[8,3,1,1] w, float[8] scale, float[8] shift, float[2,8,1,1] u)
        => (float[N,2,4,4] y) {
            h = Conv(x, w)
            n = GroupNormalization<num_groups = 4>(h, scale, shift)
            y = Conv(n, u)
        }""",
        ({"w": (6, 3, 1, 1), "scale": (6,), "shift": (6,), "u": (2, 6, 1, 1)},),
        opset=21,
    ),
    Family(
        "groups of a normalisation by Reshape",
        """(float[N,3,4,4] x, float[8,3,1,1] w, float[4] one, float[4] none, float[8,1,1] scale, float[2,8,1,1] u)
        => (float[N,2,4,4] y) <int64[3] apart = {0, 4, -1}, int64[4] joined = {0, 8, 4, 4}> {
            h = Conv(x, w)
            rows = Reshape(h, apart)
            n = InstanceNormalization(rows, one, none)
            back = Reshape(n, joined)
            scaled = Mul(back, scale)
            y = Conv(scaled, u)
        }""",
        ({"w": (6, 3, 1, 1), "one": (3,), "none": (3,), "scale": (6, 1, 1), "u": (2, 6, 1, 1)},),
    ),
    Family(
        "a norm over channels that may be zero",
        """(float[N,3,4,4] x, float[8,3,1,1] w, float[2,8,1,1] u) => (float[N,2,4,4] y) <float little = {0.1}> {
            h = Conv(x, w)
            length = ReduceL2<axes = [1], keepdims = 1>(h)
            more = Add(length, little)
            unit = Div(h, more)
            y = Conv(unit, u)
        }""",
        ({"w": (7, 3, 1, 1), "u": (2, 7, 1, 1)},),
    ),
    Family(
        "sizes of a Reshape computed from a shape",
        """(float[N,3,4,4] x, float[8,3,1,1] w, float[8,4] u) => (float[N,16,4] y)
        <int64 first = {0}, int64 second = {1}, int64[1] axis = {0}, int64[1] rest = {-1}> {
            h = Conv(x, w)
            shape = Shape(h)
            n = Gather(shape, first)
            c = Gather(shape, second)
            n1 = Unsqueeze(n, axis)
            c1 = Unsqueeze(c, axis)
            sizes = Concat<axis = 0>(n1, c1, rest)
            flat = Reshape(h, sizes)
            turned = Transpose<perm = [0, 2, 1]>(flat)
            y = MatMul(turned, u)
        }""",
        ({"w": (7, 3, 1, 1), "u": (7, 4)},),
    ),
)


def _recurrent(op_type: str, gates: int, states: str) -> Family:
    """Both directions, initial states, all steps read by a layer through Transpose and Reshape."""
    return Family(
        f"hidden units of {op_type}",
        f"""(float[5,2,6] x, float[2,{4 * gates},6] w, float[2,{4 * gates},4] r, float[2,{8 * gates}] b,
        float[2,2,4] state, float[2,2,4] cell, float[8,3] u) => (float[5,2,3] y) <int64[3] joined = {{0, 0, -1}}> {{
            steps = {op_type}<hidden_size = 4, direction = "bidirectional">(x, w, r, b, , {states})
            turned = Transpose<perm = [0, 2, 1, 3]>(steps)
            flat = Reshape(turned, joined)
            y = MatMul(flat, u)
        }}""",
        (
            {
                "w": (2, 3 * gates, 6),
                "r": (2, 3 * gates, 3),
                "b": (2, 6 * gates),
                **each(states.replace(",", " "), 2, 2, 3),
                "u": (6, 3),
            },
        ),
    )


RECURRENT = (
    _recurrent("LSTM", 4, "state, cell"),
    _recurrent("GRU", 3, "state"),
    _recurrent("RNN", 1, "state"),
    Family(
        "hidden units of LSTM after LSTM, the last state read",
        """(float[5,2,6] x, float[1,16,6] w, float[1,16,4] r, float[1,12,4] v, float[1,12,3] s, float[3,2] u)
        => (float[2,2] y) <int64[1] one = {1}, int64[1] none = {0}> {
            steps = LSTM<hidden_size = 4>(x, w, r)
            flat = Squeeze(steps, one)
            all, last = LSTM<hidden_size = 3>(flat, v, s)
            state = Squeeze(last, none)
            y = Gemm(state, u)
        }""",
        (
            {"w": (1, 12, 6), "r": (1, 12, 3), "v": (1, 12, 3)},
            {"v": (1, 8, 4), "s": (1, 8, 2), "u": (2, 2)},
        ),
    ),
)

QUANTISED = (
    Family(
        "quantised weights, a scale and zero point per channel, a bias of 32 bits",
        """(float[N,3,4,4] x, int8[8,3,1,1] w, float[8] scale, int8[8] zero, int32[8] b, float[2,8,1,1] u)
        => (float[N,2,4,4] y) <float step = {0.05}, int8 middle = {0}> {
            weight = DequantizeLinear<axis = 0>(w, scale, zero)
            bias = DequantizeLinear<axis = 0>(b, scale)
            h = Conv(x, weight, bias)
            small = QuantizeLinear(h, step, middle)
            r = DequantizeLinear(small, step, middle)
            y = Conv(r, u)
        }""",
        ({"w": (7, 3, 1, 1), "scale": (7,), "zero": (7,), "b": (7,), "u": (2, 7, 1, 1)},),
    ),
    Family(
        "quantised weights with one scale, read transposed",
        """(float[N,5,6] x, int8[8,6] w, int8[8,4] u) => (float[N,5,4] y) <float step = {0.05}, int8 middle = {3}> {
            weight = DequantizeLinear(w, step, middle)
            turned = Transpose<perm = [1, 0]>(weight)
            h = MatMul(x, turned)
            r = Relu(h)
            second = DequantizeLinear(u, step)
            y = MatMul(r, second)
        }""",
        ({"w": (7, 6), "u": (7, 4)},),
    ),
)
