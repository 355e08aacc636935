"""What a network says of its channels and weights: against the greedy path, closed forms and finite differences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from darwinc import graph
from darwinc.calibrators.appraisal import appraise, appraise_ancestor
from darwinc.calibrators.credits import credit_of, merit_of
from darwinc.calibrators.criteria import kin_of, measured_score
from darwinc.calibrators.synapses import squared_gradients, synaptic_weights
from darwinc.channels import Channels, analyse
from darwinc.console import Stage, Terminal
from darwinc.cost import CostModel
from darwinc.data import InputSpec, Samples, open_data
from darwinc.evolution.appraisal import Appraisal
from darwinc.evolution.genome import Genome
from darwinc.evolution.positions import expanded
from darwinc.evolution_options import Evolution
from darwinc.fitness.rivals import WEAK, cluster_strengths
from darwinc.passes.excise import excise
from darwinc.pipeline import Job
from darwinc.selection import Limits, trace
from darwinc.torch_graph import TorchGraph
from tests.small_models import CLASSIFIER, Array, build, dead, images, save_data

FORK = """(float[N,6] x, float[6,9] m1, float[9,3] m2) => (float[N,3] y) {
    h = MatMul(x, m1)
    r = Relu(h)
    y = MatMul(r, m2)
}
"""
"""One hidden layer, of which each unit may feed a class of its own."""


def samples(tmp_path, x: Array, labels: Array | None = None) -> Samples: ...
