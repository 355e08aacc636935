"""Latency as a cost: what ONNX Runtime takes for each layer as a function of its widths, measured on this machine.

profiles    what each node takes, by the profiler, and a whole run without it
kinds       operators whose time goes in steps of widths
curves      where the steps are, and by how much widths off the fast kernel are slower
multiples   curves of a model's own layers, timed alone; the multiple that each group should keep
widths      sizes of axes as functions of groups' widths; which widths to time
layers      which nodes of the file are executed as one, and what their time depends on
fitting     from times to functions of widths
measuring   times of a model at many widths; store keeps them on disk
model       the sum of it all: LatencyModel, and its price
"""

from darwinc.latency.measuring import Asked, curves_of, times_of, wanted_multiples
from darwinc.latency.model import LatencyModel, LatencyPrice
from darwinc.latency.multiples import by_kind, preferred

__all__ = ["Asked", "LatencyModel", "LatencyPrice", "by_kind", "curves_of", "preferred", "times_of", "wanted_multiples"]
