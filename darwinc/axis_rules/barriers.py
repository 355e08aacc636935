"""Operators that deliberately let no channel through, and why, in the words of the report."""

from __future__ import annotations

import functools
from collections.abc import Callable

import onnx_ir as ir

from darwinc.axis_flow import Flow

RANDOM = "draws random numbers, of which others would fall with fewer channels"
SEQUENCES = "sequences of tensors aren't followed"
STRINGS = "works on strings"
WINDOWS = "makes a window from a number"
LOSSES = "is a loss over classes"
CODED = "weights in a code of blocks aren't cut"
CUDA = "has no kernel for the CPU to check a rule against"
CACHED = "keeps a state from call to call"
SEARCH = "searches by running a model of its own"

STANDARD: dict[str, str] = {
    **dict.fromkeys(("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike"), RANDOM),
    **dict.fromkeys(("RandomUniform", "RandomUniformLike"), RANDOM),
    **dict.fromkeys(("BlackmanWindow", "HammingWindow", "HannWindow", "MelWeightMatrix"), WINDOWS),
    **dict.fromkeys(("ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceEmpty"), SEQUENCES),
    **dict.fromkeys(("SequenceErase", "SequenceInsert", "SequenceLength", "SequenceMap", "SplitToSequence"), SEQUENCES),
    **dict.fromkeys(("Optional", "OptionalGetElement", "OptionalHasElement"), SEQUENCES),
    **dict.fromkeys(("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer"), STRINGS),
    **dict.fromkeys(("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"), LOSSES),
    **dict.fromkeys(("CausalConvWithState", "LinearAttention"), CACHED),
    "AffineGrid": "makes a grid as large as its sizes say",
    "EyeLike": "makes an identity matrix as large as its input",
    "ImageDecoder": "decodes an image",
    "MaxUnpool": "places values by indices into the whole tensor",
    "NonMaxSuppression": "chooses among boxes by what they overlap",
    "NonZero": "lists the places of all that isn't zero",
    "Range": "counts up to a number",
    "Unique": "sorts out what is the same",
}

FUSED: dict[str, str] = {
    **dict.fromkeys(("BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch"), SEARCH),
    **dict.fromkeys(("GroupNorm", "SkipGroupNorm", "NhwcConv", "NhwcFusedConv", "NhwcMaxPool"), CUDA),
    **dict.fromkeys(("ComplexMul", "ComplexMulConj", "GemmFastGelu", "GatedRelativePositionBias"), CUDA),
    **dict.fromkeys(("Irfft", "Rfft", "PackedAttention", "PackedMultiHeadAttention", "PagedAttention"), CUDA),
    **dict.fromkeys(("DecoderMaskedMultiHeadAttention", "DecoderAttention", "SparseAttention"), CACHED),
    **dict.fromkeys(("MatMulBnb4", "MatMulFpQ4", "GatherBlockQuantized", "MoE", "QMoE"), CODED),
    "DynamicQuantizeLSTM": "packs its quantised weights",
    "LongformerAttention": "attends within windows of its own making",
    "QAttention": "packs quantised queries, keys and values in one product",
    "QEmbedLayerNormalization": "normalises over this axis",
    "QLinearConvTranspose": "mixes channels through a quantised, transposed weight",
    "Range": STANDARD["Range"],
    "Unique": STANDARD["Unique"],
}
"""ONNX Runtime's own operators (com.microsoft)."""


def held(reason: str) -> Callable[[Flow, ir.Node], None]:
    """A rule that lets nothing through."""
    return functools.partial(_hold, reason=reason)


def _hold(flow: Flow, node: ir.Node, reason: str) -> None:
    flow.barrier(node, reason)
