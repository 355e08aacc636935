"""The twin by torch.compile, where a compiler is at hand; as it is elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TypeAlias

import torch

from darwinc.torch_graph import TorchGraph
from darwinc.torch_plan import Plan
from darwinc.torch_rules.convert import FeedValue

Backend: TypeAlias = "str | Callable[..., object]"
Forward: TypeAlias = Callable[[Mapping[str, FeedValue]], dict[str, torch.Tensor]]


class _Compiled:
    """One compiled function for each plan: a plan is for one set of shapes, so that nothing in it is dynamic."""

    def __init__(self, twin: TorchGraph, also: Collection[str], backend: Backend) -> None:
        self._twin = twin
        self._also = tuple(also)
        self._backend = backend
        self._functions: dict[int, tuple[Plan, Callable[..., dict[str, torch.Tensor]]]] = {}

    def __call__(self, feed: Mapping[str, FeedValue]) -> dict[str, torch.Tensor]:
        environment = self._twin.enter(feed)
        planned = self._twin.plan(environment)
        if id(planned) not in self._functions:
            self._functions[id(planned)] = planned, self._function(planned)
        return self._functions[id(planned)][1](environment)

    def _function(self, planned: Plan) -> Callable[..., dict[str, torch.Tensor]]:
        twin, also = self._twin, self._also

        def walk(environment: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return twin.walk(planned, dict(environment), also)

        function: Callable[..., dict[str, torch.Tensor]] = torch.compile(walk, backend=self._backend, dynamic=False)
        return function


def compiled(
    twin: TorchGraph, feed: Mapping[str, FeedValue], *, also: Collection[str] = (), backend: Backend = "inductor"
) -> tuple[Forward, str | None]:
    """`twin.forward` compiled, and None; where that fails on the first batch, as it is, and a sentence that says why.

    The first batch runs forward and backward, because torch compiles the one and the other when they are first needed.
    It leaves weights, gradients and running statistics as they were.

    Args:
        twin: on the device and in the mode (training or not) that it will be used in.
        feed: the first batch, arrays by input name; call this under the autocast that will be used.
        also: names of values inside the graph that are wanted too.
        backend: torch.compile's.
    """
    forward = _Compiled(twin, also, backend)
    before = {name: weight.detach().clone() for name, weight in twin.weights().items() if not weight.requires_grad}
    try:
        _try(twin, forward(feed))
    except RuntimeError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return lambda later: twin.forward(
            later, also
        ), f"torch.compile fails, and training goes on without it: {reason}"
    finally:
        with torch.no_grad():
            for name, value in before.items():
                twin.weights()[name].copy_(value)
    return forward, None


def _try(twin: TorchGraph, results: Mapping[str, torch.Tensor]) -> None:
    """A backward pass that nobody looks at."""
    answers = [result.float().sum() for result in results.values() if result.requires_grad]
    trained = [weight for weight in twin.weights().values() if weight.requires_grad]
    if answers and trained and torch.is_grad_enabled():
        torch.autograd.grad(torch.stack(answers).sum(), trained, allow_unused=True)
