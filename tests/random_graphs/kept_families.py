"""What must stay: what looks across channels and would notice that one is gone."""

from __future__ import annotations

from tests.random_graphs.family import Family


def _across(name: str, body: str, opset: int = 17) -> Family:
    """A Conv `w`, then `body` from h to z, both [N, 8, 4, 4], then a Conv."""
    return Family(
        name,
        f"""(float[N,3,4,4] x, float[8,3,1,1] w, float[2,8,1,1] u) => (float[N,2,4,4] y) {{
            h = Conv(x, w)
            {body}
            y = Conv(z, u)
        }}""",
        (),
        opset,
    )


MUST_KEEP = (
    _across("a sum of what zeros don't leave alone", "s = Sigmoid(h) t = ReduceSum<keepdims = 1>(s) z = Mul(h, t)"),
    _across("a norm of what zeros don't leave alone", "s = Exp(h) t = ReduceL2<axes = [1]>(s) z = Mul(h, t)"),
    _across("a mean", "t = ReduceMean<axes = [1]>(h) z = Sub(h, t)"),
    _across("a maximum", "t = ReduceMax<axes = [1]>(h) z = Sub(h, t)"),
    _across("a softmax", "z = Softmax<axis = 1>(h)"),
    _across("neighbours", "z = LRN<size = 3>(h)"),
    _across("a sorted order", "f = Cast<to = 1>(h) a = ArgMax<axis = 1>(f) c = Cast<to = 1>(a) z = Mul(h, c)"),
)
