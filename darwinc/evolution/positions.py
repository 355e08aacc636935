"""Weights between a network's file and the ancestor's positions, where relatives of different shapes can be compared.

A network's file is the ancestor's without its dead channels (`passes.excise`), so that each of its constants lies at
known positions of one of the ancestor's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from darwinc import graph
from darwinc.channels import Channels, Mask
from darwinc.cutting import Array, Cuts, Cutter, lengths, scattered, taken
from darwinc.errors import InputError
from darwinc.evolution.genome import Genome
from darwinc.passes.excise import excise

Parent = tuple[ir.Model, Genome, float]
"""A network, who lives in it, and its share."""


def blended(ancestor: ir.Model, channels: Channels, parents: Iterable[Parent]) -> ir.Model:
    """A copy of the ancestor with its parents' weights: sum_k share_k W_k / sum_k share_k at every position.

    The sums go over the parents in which a position lives; what lives in none of them, and what doesn't have the shape
    that the genome says, stays as the ancestor's. Where a network has several copies of a constant, their mean counts.
    Only one parent and the means are held at a time. `channels` are the ancestor's.
    """
    child, before = ancestor.clone(), graph.constants(ancestor)
    means = {name: _Mean(tensor) for name, tensor in before.items() if tensor.dtype.is_floating_point()}
    for network, genome, share in parents:
        layout, stored = _Layout.of(ancestor, channels, genome.dead), graph.constants(network)
        for name, mean in means.items():
            copies = layout.copies[name]
            own = _together(before[name], [(stored[copy].numpy(), copies[copy]) for copy in copies if copy in stored])
            mask = genome.synapses.get(name, np.ones((), np.bool_))
            mean.add(own.value, np.float32(share) * ((own.weight > 0) & mask))
    _set(child, {name: mean.over(before[name]) for name, mean in means.items() if mean.weight.any()})
    return child


def expanded(ancestor: ir.Model, channels: Channels, network: ir.Model, genome: Genome) -> ir.Model:
    """The network in the ancestor's shape, its dead channels and synapses zero: it answers as the network does.

    Copies of a constant that the network has for some of its readers stay apart.

    Raises:
        InputError: a mask of the genome doesn't have the shape of the ancestor's weight.
    """
    full, layout = ancestor.clone(), _Layout.of(ancestor, channels, genome.dead)
    before, stored = graph.constants(ancestor), graph.constants(network)
    found = {
        name: _together(before[source], [(stored[name].numpy(), layout.copies[source][name])]).over(before[source])
        for source, copies in layout.copies.items()
        for name in copies
        if name in stored and before[source].dtype.is_floating_point()
    }
    _set(full, {name: tensor for name, tensor in found.items() if name in before})
    _set_apart(full, layout.cut, {name: found[name] for name in layout.apart if name in found})
    _silence(full, genome.synapses)
    return excise(full, channels, genome.dead, zero=True)[0]


def without_synapses(model: ir.Model, channels: Channels, genome: Genome) -> ir.Model:
    """A copy of a cut network with its genome's dead synapses at zero.

    Raises:
        InputError: a weight of the network doesn't have the shape that its genome says.
    """
    copy = model.clone()
    _silence(copy, synapse_masks(channels, genome))
    return copy


def synapse_masks(channels: Channels, genome: Genome) -> dict[str, Mask]:
    """Which synapses of a cut network live, by the names of their weights and in the shapes that they have there."""
    cutter, found = Cutter(channels, genome.dead), dict[str, Mask]()
    for use in channels.flow.uses:
        source = graph.constant_source(use.value)
        mask = None if source is None else genome.synapses.get(str(source.name))
        if source is not None and mask is not None:
            found[str(source.name)] = taken(ir.tensor(mask), cutter.of(use))
    return found


@dataclass(frozen=True)
class _Layout:
    """Where a network's constants lie in the ancestor's.

    Attributes:
        cut: the ancestor, cut like the network.
        copies: for each of the ancestor's constants what the network has of it, by name, and the indices kept there.
        apart: the constant of the ancestor for each further copy.
    """

    cut: ir.Model
    copies: Mapping[str, Mapping[str, Cuts]]
    apart: Mapping[str, str]

    @classmethod
    def of(cls, ancestor: ir.Model, channels: Channels, dead: Mask) -> _Layout:
        """Of a network in which the components in `dead` [channels.count] are gone."""
        cut, excision = excise(ancestor, channels, dead)
        sources = dict(_aliases(ancestor))
        apart = {copy: sources.get(read, read) for copy, read in excision.copies.items()}
        kept = {name: {int(axis): found for axis, found in axes.items()} for name, axes in excision.kept.items()}
        copies = {name: {name: kept.get(name, {})} for name in graph.constants(ancestor)}
        for copy, source in apart.items():
            copies[source][copy] = kept[copy]
        return cls(cut, copies, apart)


def _aliases(model: ir.Model) -> Iterator[tuple[str, str]]:
    """The copies of constants through Identity, and their constants, by name."""
    for node in model.graph:
        source = graph.constant_source(node.outputs[0]) if node.op_type == "Identity" else None
        if source is not None:
            yield str(node.outputs[0].name), str(source.name)


class _Mean:
    """A running mean of one constant [shape], position by position.

    It moves by differences, so that what agrees keeps its very bits.
    """

    def __init__(self, tensor: ir.TensorProtocol) -> None:
        self.shape = tuple(tensor.shape.numpy())
        self.value = np.zeros(self.shape, np.float64 if tensor.dtype == ir.DataType.DOUBLE else np.float32)
        self.weight = np.zeros(self.shape, np.float32)

    def add(self, value: Array, weight: Array) -> None:
        """Values and what each counts, both [shape]."""
        self.weight += weight
        moves = (weight > 0) & (value != self.value)
        self.value[moves] += weight[moves] / self.weight[moves] * (value[moves] - self.value[moves])

    def over(self, ancestor: ir.TensorProtocol) -> ir.TensorProtocol:
        """The means, where there are any, in place of an ancestor's values."""
        stored = ancestor.numpy()
        found = np.where(self.weight > 0, self.value.astype(stored.dtype), stored)
        return ir.Tensor(found, ancestor.dtype, name=ancestor.name)


def _together(tensor: ir.TensorProtocol, copies: Iterable[tuple[Array, Cuts]]) -> _Mean:
    """What a network has of one of the ancestor's constants: the mean of its copies where they live."""
    mean = _Mean(tensor)
    for array, cuts in copies:
        if array.shape == lengths(cuts, mean.shape):
            living = scattered(np.ones(array.shape, np.bool_), cuts, mean.shape)
            mean.add(scattered(array.astype(mean.value.dtype), cuts, mean.shape), living)
    return mean


def _set_apart(full: ir.Model, cut: ir.Model, tensors: Mapping[str, ir.TensorProtocol]) -> None:
    """Give the readers of a whole model that have copies of their own in the cut one such copies."""
    made = {}
    for name, tensor in tensors.items():
        shape, kind = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
        made[name] = ir.Value(name=name, shape=shape, type=kind, const_value=tensor)
        full.graph.initializers.add(made[name])
    for node, pattern in zip(full.graph, cut.graph, strict=True):
        for index, value in enumerate(pattern.inputs):
            if value is not None and value.name in made:
                node.replace_input_with(index, made[str(value.name)])


def _silence(model: ir.Model, masks: Mapping[str, Mask]) -> None:
    """Set what isn't in the masks to zero."""
    stored = graph.constants(model)
    silenced = {}
    for name, mask in masks.items():
        tensor = stored.get(name)
        if tensor is None or tuple(tensor.shape.numpy()) != mask.shape:
            raise InputError(
                f"The genome of a network has {list(mask.shape)} synapses in {name!r}, and its file doesn't; "
                "the folder of the network is damaged."
            )
        array = tensor.numpy()
        silenced[name] = ir.Tensor(np.where(mask, array, array.dtype.type(0)), tensor.dtype, name=name)
    _set(model, silenced)


def _set(model: ir.Model, tensors: Mapping[str, ir.TensorProtocol]) -> None:
    """Replace constants by name."""
    values = dict(model.graph.initializers.items())
    values |= {str(node.outputs[0].name): node.outputs[0] for node in model.graph if node.op_type == "Constant"}
    for name, tensor in tensors.items():
        graph.set_constant(values[name], tensor)
