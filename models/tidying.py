"""Make an exporter's graph plain: what a person would have written for the same network."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnxscript import optimizer, rewriter
from onnxscript.rewriter.rules import common as rules

from darwinc import graph

# Only what folds shape arithmetic: BatchNormalization stays, its statistics are worth something to a pruner.
TIDY_RULES = (
    rules.materialize_reshape_shape_rule,
    rules.reshape_reshape_rule,
    rules.squeeze_reshape_1d_rule,
    rules.unsqueeze_unsqueeze_rule,
    rules.transpose_transpose_rule,
    rules.no_op_transpose_rule,
    rules.no_op_expand_rule,
    rules.no_op_cast_rule,
    rules.cast_cast_rule,
    rules.collapse_slice_rule,
    rules.collapse_slice2_rule,
    rules.slice_split_rule,
    rules.dropout_inference_rule,
)


def tidy(model: ir.Model, own: frozenset[str] = frozenset()) -> ir.Model:
    """Fold an exporter's shape arithmetic and drop its notes (they hold paths of the exporting machine), in place.

    `own` names the module's tensors: their values stay, whatever they are.
    """
    passes.InlinePass()(model)
    for _ in range(2):
        optimizer.fold_constants(model)
        rewriter.rewrite(model, TIDY_RULES)
    _drop_made_up_biases(model, own)
    ir.passes.Sequential(
        passes.RemoveUnusedNodesPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.CommonSubexpressionEliminationPass(),
        passes.IdentityEliminationPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
        passes.RemoveUnusedOpsetsPass(),
    )(model)
    passes.ClearMetadataAndDocStringPass()(model)
    return model


def _drop_made_up_biases(model: ir.Model, own: frozenset[str]) -> None:
    """The new exporter gives a convolution without a bias one of zeros; what the module owns stays, zero or not."""
    for node in model.graph:
        if node.op_type not in ("Conv", "ConvTranspose") or len(node.inputs) < 3:
            continue
        bias = node.inputs[2]
        tensor = graph.constant_tensor(bias)
        if bias is not None and bias.name not in own and tensor is not None and not tensor.numpy().any():
            node.resize_inputs(2)
