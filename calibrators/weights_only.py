"""Statistics from the weights alone, for graphs that torch can't run: every reader's input is taken to be white."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from darwinc import graph
from darwinc.axis_record import Reader
from darwinc.calibrators.meetings import alike, prunable
from darwinc.calibrators.statistics import Statistics
from darwinc.channels import Channels
from darwinc.fitness.statistics import ReaderStatistics


def from_weights(channels: Channels, measured: Statistics | None = None, model: ir.Model | None = None) -> Statistics:
    """C = I and G = I / tr(W W') at every reader whose weight is a stored constant.

    With `measured`, only at those that were not measured (the recurrence of an LSTM, say), each as important as the
    measured ones are on average. The weights are those of the analysed model, or of another one of the same nodes.
    """
    stands_for = channels.counterparts(model)
    readers: dict[str, list[ReaderStatistics]] = {} if measured is None else dict(measured.readers)
    importance = _importance(measured)
    for reader in channels.flow.readers:
        if str(reader.node.outputs[0].name) in readers:
            continue
        tensor = graph.constant_tensor(stands_for[reader.node].inputs[reader.weight])
        units = channels.component[reader.ids]
        if tensor is None or not units.any():
            continue
        rows = _by_input(tensor.numpy().astype(np.float64), reader, len(units)).reshape(
            reader.groups, len(units) // reader.groups, -1
        )
        readers[str(reader.node.outputs[0].name)] = [
            _white(rows[group], positions, importance)
            for group, positions in enumerate(units.reshape(reader.groups, -1))
        ]
    if measured is not None:
        return replace(measured, readers=readers)
    for meeting in prunable(channels):
        met = channels.component[meeting.ids]
        readers[str(meeting.node.outputs[0].name)] = [alike(met, len(met), np.zeros(0, np.int64))]
    return Statistics(readers, 0, "weights")


def _importance(measured: Statistics | None) -> float:
    """tr(K C) of a measured reader, on average."""
    found = [reader for readers in (measured.readers if measured else {}).values() for reader in readers]
    return float(np.mean([np.sum(reader.gram * reader.covariance) for reader in found])) if found else 1.0


def _white(rows: npt.NDArray[np.float64], units: npt.NDArray[np.int64], importance: float) -> ReaderStatistics:
    gram = rows @ rows.T
    scale = importance / max(float(np.trace(gram)), 1e-30)
    return ReaderStatistics(units, np.eye(len(units)), gram * scale, units, None)


def _by_input(weight: npt.NDArray[np.float64], reader: Reader, inputs: int) -> npt.NDArray[np.float64]:
    """The weight as [inputs, everything else]; a grouped convolution's groups follow each other."""
    if reader.groups > 1 and reader.weight_axis == 1:
        grouped = weight.reshape(reader.groups, -1, *weight.shape[1:])
        return np.moveaxis(grouped, 2, 1).reshape(inputs, -1)
    return np.moveaxis(weight, reader.weight_axis, 0).reshape(inputs, -1)
