"""A model, its rewrite without some channels, and the twins of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from darwinc.calibrators.lockstep import Lockstep
from darwinc.calibrators.refit import Refitter
from darwinc.channels import Channels, Mask, analyse
from darwinc.passes.excise import excise
from darwinc.torch_graph import TorchGraph
from tests.small_models import Array, Arrays
from tests.surgery import dead_positions


class Surgery:
    """A model, its rewrite without some channels, and both twins on the same batches."""

    def __init__(
        self, model: onnx.ModelProto, removed: Mapping[str, Sequence[int]], batches: list[dict[str, Array]]
    ) -> None:
        self.original = ir.from_proto(model)
        self.channels: Channels = analyse(self.original)
        self.dead: Mask = dead_positions(self.channels, removed)
        self.rewritten, _ = excise(self.original, self.channels, self.dead)
        self.batches = batches
        self.before, self.after = TorchGraph(self.original), TorchGraph(self.rewritten)

    def refit(self) -> Refitter:
        lockstep = Lockstep(self.before, self.after, self.channels, self.dead)
        lockstep.enter(self.batches)
        refitter = Refitter(lockstep, holdout=1)
        refitter.run()
        return refitter

    def error(self, feed: Arrays) -> float:
        """The largest difference of the outputs in ONNX Runtime, over their scale."""
        self.after.write_back(self.rewritten)
        want, got = (answers(model, feed) for model in (self.original, self.rewritten))
        return float(np.abs(want - got).max() / np.abs(want).max())


def answers(model: ir.Model, feed: Arrays) -> Array:
    import onnxruntime

    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    found: Array = session.run(None, dict(feed))[0]
    return found
