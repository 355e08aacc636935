"""What must be prunable: heads, query and key dimensions, value dimensions, however attention is written."""

from __future__ import annotations

from tests.random_graphs.family import Family, each

SEPARATE = """(float[N,5,6] x, float[6,12] q, float[6,12] k, float[6,12] v, float[12,8] o{more}) => (float[N,5,8] y)
        <int64[4] apart = {{0, 0, 3, 4}}, int64[3] joined = {{0, 0, 12}}, float half = {{0.5}}{constants}> {{
            qp = MatMul(x, q)
            kp = MatMul(x, k)
            vp = MatMul(x, v)
            qs = Reshape(qp, apart)
            ks = Reshape(kp, apart)
            vs = Reshape(vp, apart)
            qh = Transpose<perm = [0, 2, 1, 3]>(qs)
            kh = Transpose<perm = [0, 2, 1, 3]>(ks)
            vh = Transpose<perm = [0, 2, 1, 3]>(vs)
            {between}
            m = MatMul(p, vh)
            mt = Transpose<perm = [0, 2, 1, 3]>(m)
            mj = Reshape(mt, joined)
            y = MatMul(mj, o)
        }}"""
"""Three heads of four dimensions; `between` makes the probabilities `p` of `qh` and `kh` [N, 3, 5, 4]."""

PLAIN = """
            kt = Transpose<perm = [0, 1, 3, 2]>(kh)
            s = MatMul(qh, kt)
            sc = Mul(s, half)
            p = Softmax<axis = -1>(sc)"""

HEADS = {**each("q k v", 6, 8), "o": (8, 8)}
KEYS = {**each("q k", 6, 9), "v": (6, 12), "o": (12, 8)}
VALUES = {**each("q k", 6, 12), "v": (6, 9), "o": (9, 8)}


def _separate(name: str, between: str, cuts: tuple[dict[str, tuple[int, ...]], ...], **text: str) -> Family:
    words = {"more": "", "constants": "", **text}
    return Family(name, SEPARATE.format(between=between, **words), cuts)


def _fused(name: str, body: str, cuts: tuple[dict[str, tuple[int, ...]], ...], constants: str) -> Family:
    """Queries, keys and values from one product `w` [N, 5, 36]; `body` makes qh, kh and vh [N, 3, 5, 4] of it."""
    return Family(
        name,
        f"""(float[N,5,6] x, float[6,36] qkv, float[36] b, float[12,8] o) => (float[N,5,8] y)
        <int64[3] joined = {{0, 0, -1}}, float half = {{0.5}}, {constants}> {{
            product = MatMul(x, qkv)
            w = Add(product, b)
            {body}
            scaled = Mul(qh, half)
            kt = Transpose<perm = [0, 1, 3, 2]>(kh)
            s = MatMul(scaled, kt)
            p = Softmax<axis = -1>(s)
            m = MatMul(p, vh)
            mt = Transpose<perm = [0, 2, 1, 3]>(m)
            mj = Reshape(mt, joined)
            y = MatMul(mj, o)
        }}""",
        cuts,
    )


FUSED_HEADS = {"qkv": (6, 24), "b": (24,), "o": (8, 8)}
FUSED_ALL = {"qkv": (6, 27), "b": (27,), "o": (9, 8)}
"""Where one Reshape says the size of queries, keys and values, they shrink together."""
FUSED_KEYS = {"qkv": (6, 30), "b": (30,), "o": (12, 8)}
FUSED_VALUES = {"qkv": (6, 33), "b": (33,), "o": (9, 8)}

ATTENTION = (
    _separate("separate projections", PLAIN, (HEADS, KEYS, VALUES)),
    _separate(
        "a scale computed from a shape",
        """
            kt = Transpose<perm = [0, 1, 3, 2]>(kh)
            s = MatMul(qh, kt)
            shape = Shape(qh)
            size = Gather(shape, third)
            number = Cast<to = 1>(size)
            root = Sqrt(number)
            sc = Div(s, root)
            p = Softmax<axis = -1>(sc)""",
        (HEADS, KEYS, VALUES),
        constants=", int64 third = {3}",
    ),
    _separate(
        "a table of relative positions",
        """
            kt = Transpose<perm = [0, 1, 3, 2]>(kh)
            s = MatMul(qh, kt)
            picked = Gather(table, places)
            square = Reshape(picked, sides)
            front = Transpose<perm = [2, 0, 1]>(square)
            bias = Unsqueeze(front, none)
            sc = Add(s, bias)
            p = Softmax<axis = -1>(sc)""",
        ({**HEADS, "table": (9, 2)}, {**KEYS, "table": (9, 3)}, {**VALUES, "table": (9, 3)}),
        more=", float[9,3] table",
        constants=", int64[25] places = {4, 3, 2, 1, 0, 5, 4, 3, 2, 1, 6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 8, 7, 6, 5, 4},"
        " int64[3] sides = {5, 5, 3}, int64[1] none = {0}",
    ),
    _separate(
        "cosine attention with a scale per head",
        """
            ql = ReduceL2<axes = [-1], keepdims = 1>(qh)
            kl = ReduceL2<axes = [-1], keepdims = 1>(kh)
            qm = Add(ql, half)
            km = Add(kl, half)
            qn = Div(qh, qm)
            kn = Div(kh, km)
            kt = Transpose<perm = [0, 1, 3, 2]>(kn)
            s = MatMul(qn, kt)
            sc = Mul(s, temperature)
            p = Softmax<axis = -1>(sc)""",
        ({**HEADS, "temperature": (2, 1, 1)}, KEYS, VALUES),
        more=", float[3,1,1] temperature",
    ),
    _separate(
        "rotary positions, halves rotated into each other",
        """
            q1, q2 = Split<axis = -1>(qh)
            qn = Neg(q2)
            qr = Concat<axis = -1>(qn, q1)
            qc = Mul(qh, cosine)
            qz = Mul(qr, sine)
            qx = Add(qc, qz)
            k1, k2 = Split<axis = -1>(kh)
            kn = Neg(k2)
            kr = Concat<axis = -1>(kn, k1)
            kc = Mul(kh, cosine)
            kz = Mul(kr, sine)
            kx = Add(kc, kz)
            kt = Transpose<perm = [0, 1, 3, 2]>(kx)
            s = MatMul(qx, kt)
            p = Softmax<axis = -1>(s)""",
        (HEADS, {**each("q k", 6, 6), **each("cosine sine", 5, 2)}, VALUES),
        more=", float[5,4] cosine, float[5,4] sine",
    ),
    _separate(
        "rotary positions, neighbours rotated into each other",
        """
            qpairs = Reshape(qh, pairs)
            kpairs = Reshape(kh, pairs)
            qswapped = Gather<axis = 4>(qpairs, swap)
            kswapped = Gather<axis = 4>(kpairs, swap)
            qc = Mul(qpairs, cosine)
            kc = Mul(kpairs, cosine)
            qz = Mul(qswapped, sine)
            kz = Mul(kswapped, sine)
            qx = Add(qc, qz)
            kx = Add(kc, kz)
            qf = Reshape(qx, flat)
            kf = Reshape(kx, flat)
            kt = Transpose<perm = [0, 1, 3, 2]>(kf)
            s = MatMul(qf, kt)
            p = Softmax<axis = -1>(s)""",
        (HEADS, {**each("q k", 6, 6), **each("cosine sine", 5, 1, 2)}, VALUES),
        more=", float[5,2,2] cosine, float[5,2,2] sine",
        constants=", int64[5] pairs = {0, 3, 5, 2, 2}, int64[4] flat = {0, 0, 0, -1}, int64[2] swap = {1, 0}",
    ),
    _fused(
        "one product, thirds moved to the front and picked",
        """
            five = Reshape(w, apart)
            front = Transpose<perm = [2, 0, 3, 1, 4]>(five)
            qh = Gather<axis = 0>(front, first)
            kh = Gather<axis = 0>(front, second)
            vh = Gather<axis = 0>(front, third)""",
        (FUSED_HEADS, FUSED_ALL),
        "int64[5] apart = {0, 0, 3, 3, 4}, int64 first = {0}, int64 second = {1}, int64 third = {2}",
    ),
    _fused(
        "one product, thirds moved to the front and split",
        """
            five = Reshape(w, apart)
            front = Transpose<perm = [2, 0, 3, 1, 4]>(five)
            q1, k1, v1 = Split<axis = 0>(front)
            qh = Squeeze(q1, none)
            kh = Squeeze(k1, none)
            vh = Squeeze(v1, none)""",
        (FUSED_HEADS, FUSED_ALL),
        "int64[5] apart = {0, 5, 3, 3, 4}, int64[1] none = {0}",
    ),
    _fused(
        "one product, thirds of the last axis",
        """
            qp, kp, vp = Split<axis = 2>(w)
            qs = Reshape(qp, keys)
            ks = Reshape(kp, keys)
            vs = Reshape(vp, values)
            qh = Transpose<perm = [0, 2, 1, 3]>(qs)
            kh = Transpose<perm = [0, 2, 1, 3]>(ks)
            vh = Transpose<perm = [0, 2, 1, 3]>(vs)""",
        (FUSED_HEADS, FUSED_KEYS, FUSED_VALUES),
        "int64[4] keys = {0, 0, 3, 4}, int64[4] values = {0, 0, 3, 4}",
    ),
    _fused(
        "one product, thirds of each head",
        """
            four = Reshape(w, apart)
            turned = Transpose<perm = [0, 2, 1, 3]>(four)
            qh, kh, vh = Split<axis = 3>(turned)""",
        (FUSED_HEADS, FUSED_KEYS, FUSED_VALUES),
        "int64[4] apart = {0, 5, 3, 12}",
    ),
    _fused(
        "tokens first, batch and heads in one axis",
        """
            five = Reshape(w, apart)
            moved = Transpose<perm = [2, 1, 0, 3]>(five)
            qp = Gather<axis = 0>(moved, first)
            kp = Gather<axis = 0>(moved, second)
            vp = Gather<axis = 0>(moved, third)
            qs = Reshape(qp, stacked)
            ks = Reshape(kp, stacked)
            vs = Reshape(vp, stacked)
            qt = Transpose<perm = [1, 0, 2]>(qs)
            kt0 = Transpose<perm = [1, 0, 2]>(ks)
            vt = Transpose<perm = [1, 0, 2]>(vs)
            qh = Reshape(qt, four)
            kh = Reshape(kt0, four)
            vh = Reshape(vt, four)""",
        (FUSED_HEADS, FUSED_ALL),
        "int64[4] apart = {0, 5, 3, 12}, int64[3] stacked = {5, -1, 4}, int64[4] four = {-1, 3, 5, 4},"
        " int64 first = {0}, int64 second = {1}, int64 third = {2}",
    ),
    Family(
        "grouped queries",
        """(float[N,5,6] x, float[6,16] q, float[6,8] k, float[6,8] v, float[16,8] o) => (float[N,5,8] y)
        <int64[4] queries = {0, 0, 4, 4}, int64[4] shared = {0, 0, 2, 4}, int64[5] spread = {1, 2, 2, 5, 4},
         int64[1] two = {2}, int64[4] four = {0, 4, 5, 4}, int64[3] joined = {0, 0, 16}> {
            qp = MatMul(x, q)
            kp = MatMul(x, k)
            vp = MatMul(x, v)
            qs = Reshape(qp, queries)
            ks = Reshape(kp, shared)
            vs = Reshape(vp, shared)
            qh = Transpose<perm = [0, 2, 1, 3]>(qs)
            kh = Transpose<perm = [0, 2, 1, 3]>(ks)
            vh = Transpose<perm = [0, 2, 1, 3]>(vs)
            ku = Unsqueeze(kh, two)
            vu = Unsqueeze(vh, two)
            ke = Expand(ku, spread)
            ve = Expand(vu, spread)
            kr = Reshape(ke, four)
            vr = Reshape(ve, four)
            kt = Transpose<perm = [0, 1, 3, 2]>(kr)
            s = MatMul(qh, kt)
            p = Softmax<axis = -1>(s)
            m = MatMul(p, vr)
            mt = Transpose<perm = [0, 2, 1, 3]>(m)
            mj = Reshape(mt, joined)
            y = MatMul(mj, o)
        }""",
        ({"q": (6, 8), "k": (6, 4), "v": (6, 4), "o": (8, 8)},),
    ),
    Family(
        "a class token on the stream",
        """(float[2,3,4,4] x, float[6,3,2,2] w, float[1,1,6] token, float[1,5,6] places, float[6,4] u)
        => (float[2,5,4] y) <int64[3] flat = {0, 6, -1}, int64[3] each = {2, 1, 6}> {
            h = Conv<strides = [2, 2]>(x, w)
            f = Reshape(h, flat)
            tokens = Transpose<perm = [0, 2, 1]>(f)
            first = Expand(token, each)
            joined = Concat<axis = 1>(first, tokens)
            placed = Add(joined, places)
            y = MatMul(placed, u)
        }""",
        ({"w": (5, 3, 2, 2), "token": (1, 1, 5), "places": (1, 5, 5), "u": (5, 4)},),
    ),
    Family(
        "windows",
        """(float[N,4,4,6] x, float[6,12] q, float[6,12] k, float[6,12] v, float[12,8] o) => (float[N,4,4,8] y)
        <int64[6] cut = {-1, 2, 2, 2, 2, 6}, int64[3] tokens = {-1, 4, 6}, int64[4] apart = {-1, 4, 3, 4},
         int64[3] joined = {-1, 4, 12}, int64[6] grid = {-1, 2, 2, 2, 2, 8}, int64[4] image = {-1, 4, 4, 8}> {
            six = Reshape(x, cut)
            turned = Transpose<perm = [0, 1, 3, 2, 4, 5]>(six)
            t = Reshape(turned, tokens)
            qp = MatMul(t, q)
            kp = MatMul(t, k)
            vp = MatMul(t, v)
            qs = Reshape(qp, apart)
            ks = Reshape(kp, apart)
            vs = Reshape(vp, apart)
            qh = Transpose<perm = [0, 2, 1, 3]>(qs)
            kt = Transpose<perm = [0, 2, 3, 1]>(ks)
            vh = Transpose<perm = [0, 2, 1, 3]>(vs)
            s = MatMul(qh, kt)
            p = Softmax<axis = -1>(s)
            m = MatMul(p, vh)
            mt = Transpose<perm = [0, 2, 1, 3]>(m)
            mj = Reshape(mt, joined)
            out = MatMul(mj, o)
            back = Reshape(out, grid)
            rows = Transpose<perm = [0, 1, 3, 2, 4, 5]>(back)
            y = Reshape(rows, image)
        }""",
        (HEADS,),
    ),
    Family(
        "the Attention operator",
        """(float[N,5,6] x, float[6,12] q, float[6,12] k, float[6,12] v, float[12,8] o) => (float[N,5,8] y) {
            qp = MatMul(x, q)
            kp = MatMul(x, k)
            vp = MatMul(x, v)
            m = Attention<q_num_heads = 3, kv_num_heads = 3>(qp, kp, vp)
            y = MatMul(m, o)
        }""",
        (HEADS, VALUES),
        opset=23,
    ),
    Family(
        "the Attention operator with grouped queries",
        """(float[N,5,6] x, float[6,16] q, float[6,8] k, float[6,8] v, float[16,8] o) => (float[N,5,8] y) {
            qp = MatMul(x, q)
            kp = MatMul(x, k)
            vp = MatMul(x, v)
            m = Attention<q_num_heads = 4, kv_num_heads = 2>(qp, kp, vp)
            y = MatMul(m, o)
        }""",
        ({"q": (6, 8), "k": (6, 4), "v": (6, 4), "o": (8, 8)},),
        opset=23,
    ),
    Family(
        "MultiHeadAttention of ONNX Runtime",
        """(float[N,5,6] x, float[6,12] q, float[6,12] k, float[6,12] v, float[36] b, float[12,8] o)
        => (float[N,5,8] y) <float[N,5,12] m> {
            qp = MatMul(x, q)
            kp = MatMul(x, k)
            vp = MatMul(x, v)
            m = com.microsoft.MultiHeadAttention<num_heads = 3>(qp, kp, vp, b)
            y = MatMul(m, o)
        }""",
        ({**HEADS, "b": (24,)},),
    ),
    Family(
        "Attention of ONNX Runtime",
        """(float[N,5,6] x, float[6,36] qkv, float[36] b, float[12,8] o) => (float[N,5,8] y)
        <float[N,5,12] m> {
            m = com.microsoft.Attention<num_heads = 3>(x, qkv, b)
            y = MatMul(m, o)
        }""",
        (FUSED_HEADS,),
    ),
)
