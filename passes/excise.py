"""Take dead channels out of the graph: out of every coupled constant, and out of every integer that counts them."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import onnx_ir as ir

from darwinc import graph
from darwinc.axis_record import ConstantUse, Follower, Picks, is_fixed
from darwinc.channels import Channels, Mask
from darwinc.console import Stage
from darwinc.cutting import Array, Cuts, Cutter, aliases, filled, is_read_only_by, lengths, taken, zeroed
from darwinc.pipeline import Job, Pass
from darwinc.shape_numbers import Number, Slot, Value
from darwinc.zeroing import is_zeroed, zero_of

Kept = dict[str, dict[str, list[int] | list[list[int]]]]


@dataclass
class Excision:
    """What was cut, in the words of the report.

    `kept[constant][axis]` are the indices that live, and `copies[copy]` is the constant that a copy was made of.
    """

    kept: Kept = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)


def excise(model: ir.Model, channels: Channels, dead: Mask, *, zero: bool = False) -> tuple[ir.Model, Excision]:
    """A copy of `model` without the components in `dead` [channels.count]; everything else stays bit for bit.

    With `zero` the dead positions become zero and every shape stays: what the rewrite is compared with.
    """
    copy = model.clone()
    surgeon = _Surgeon(copy, channels, dead, Excision())
    surgeon.cut_constants(zero=zero)
    surgeon.cut_fills(zero=zero)
    if not zero:
        surgeon.cut_integers()
        surgeon.cut_recorded_shapes()
    return copy, surgeon.excision


@dataclass(frozen=True)
class Excise(Pass):
    """Take the dead channels out of the graph."""

    def run(self, job: Job, stage: Stage) -> bool:
        stage.say("rewriting")
        job.model, job.excision = excise(job.original, job.channels, job.dead)
        return bool(job.excision.kept)


@dataclass
class _Surgeon:
    model: ir.Model
    channels: Channels
    dead: Mask
    excision: Excision

    def __post_init__(self) -> None:
        self.large = graph.stored_bytes(self.model) > graph.PROTOBUF_LIMIT
        self.node = dict(zip(self.channels.nodes, self.model.graph, strict=True))
        self.cutter = Cutter(self.channels, self.dead)
        self.taken = {str(value.name) for value in (*self.model.graph.inputs, *self.model.graph.initializers.values())}
        self.taken |= {str(value.name) for node in self.model.graph.all_nodes() for value in node.outputs}

    # Constants -----------------------------------------------------------------------------------------------------

    def cut_constants(self, *, zero: bool) -> None:
        """Cut each constant as its readers need it; readers that need it otherwise get a copy `<name>__<k>`."""
        by_source: dict[ir.Value, list[ConstantUse]] = defaultdict(list)
        for use in self.channels.flow.uses:
            node = self.node[use.node]
            source = graph.constant_source(node.inputs[use.index])
            if source is not None and (not zero or is_zeroed(node, use.index)):
                by_source[source].append(use)
        for source, uses in by_source.items():
            self._cut_source(source, uses, zero=zero)

    def _cut_source(self, source: ir.Value, uses: list[ConstantUse], *, zero: bool) -> None:
        demands: list[tuple[Cuts, list[ConstantUse]]] = []
        for use in uses:
            cuts = self.cutter.of(use)
            match = next((entry for entry in demands if entry[0] == cuts), None)
            if match is None:
                demands.append((cuts, [use]))
            else:
                match[1].append(use)
        if not any(cuts for cuts, _ in demands):
            return
        tensor = graph.constant_tensor(source)
        if tensor is None:
            return
        spare = all(cuts for cuts, _ in demands) and is_read_only_by(source, self._places(uses))
        for cuts, readers in demands[::-1]:
            if not cuts:
                continue
            made = self._cut(tensor, cuts, self._zero(readers[0], tensor) if zero else None)
            if spare and readers is demands[0][1]:
                graph.set_constant(source, made)
                self._note(source, made, cuts)
            else:
                self._give_copy(readers, made, cuts)

    def _cut(self, tensor: ir.TensorProtocol, cuts: Cuts, zero: Array | None) -> ir.TensorProtocol:
        """What is left of a tensor, or the tensor with `zero` where it would be cut.

        Those of a large model are made anew each time that somebody looks at them.
        """
        make = partial(taken, tensor, cuts) if zero is None else partial(zeroed, tensor, cuts, zero)
        if not self.large:
            return ir.Tensor(make(), tensor.dtype, name=tensor.name)
        whole = tensor.shape.numpy()
        sizes = whole if zero is not None else lengths(cuts, whole)
        return ir.LazyTensor(lambda: ir.Tensor(make(), tensor.dtype), tensor.dtype, ir.Shape(sizes), name=tensor.name)

    def cut_fills(self, *, zero: bool) -> None:
        """ConstantOfShape is cut by its shape, an integer; zeroed, it takes a stored tensor to say it."""
        for fill in self.channels.flow.fills:
            cuts = self.cutter.along(fill.axes)
            if not cuts:
                continue
            value = self.node[fill.node].outputs[0]
            self.excision.kept[str(value.name)] = {str(axis): indices for axis, indices in cuts.items()}
            if zero:
                whole = ir.tensor(filled(fill))
                value.replace_all_uses_with(self._copy(str(value.name), ir.tensor(zeroed(whole, cuts, np.zeros(())))))

    def _zero(self, use: ConstantUse, tensor: ir.TensorProtocol) -> Array:
        return zero_of(self.node[use.node], use.index, tuple(tensor.shape.numpy()))

    def _places(self, uses: list[ConstantUse]) -> set[tuple[ir.Node, int]]:
        return {(self.node[use.node], use.index) for use in uses}

    def _note(self, source: ir.Value, made: ir.TensorProtocol, cuts: Cuts) -> None:
        for value in (source, *aliases(source)):
            self.excision.kept[str(value.name)] = {str(axis): indices for axis, indices in sorted(cuts.items())}
            if value.shape is not None:
                value.shape = ir.Shape(made.shape.numpy())

    def _give_copy(self, readers: list[ConstantUse], made: ir.TensorProtocol, cuts: Cuts) -> None:
        read = str(readers[0].value.name)
        value = self._copy(read, made)
        for use in readers:
            self.node[use.node].replace_input_with(use.index, value)
        self.excision.copies[str(value.name)] = read
        self.excision.kept[str(value.name)] = {str(axis): indices for axis, indices in sorted(cuts.items())}

    def _copy(self, read: str, tensor: ir.TensorProtocol) -> ir.Value:
        """A new initializer `<read>__<k>`."""
        free = (f"{read}__{number}" for number in itertools.count(1))
        return self._initializer(next(name for name in free if name not in self.taken), tensor)

    def _initializer(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        tensor.name = name
        shape = ir.Shape(tensor.shape.numpy())
        value = ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.model.graph.initializers.add(value)
        self.taken.add(name)
        return value

    # Integers ------------------------------------------------------------------------------------------------------

    def cut_integers(self) -> None:
        """Shape constants and attributes that count positions."""
        stored: dict[tuple[ir.Node, int], list[Follower]] = defaultdict(list)
        for follower in self.channels.flow.followers:
            node = self.node[follower.node]
            if node.op_type == "Slice" and not self._shrinks(follower.node):
                continue
            if isinstance(follower.place, int):
                stored[node, follower.place].append(follower)
            else:
                self._set_attribute(node, follower.place, follower.element, self._extent(follower))
        self._set_splits()
        self._name_squeezed_axes()
        self._spell_out_defaults()
        for key in self.channels.flow.frozen:
            if key in self.channels.flow.slots:
                stored[self.node[key[0]], key[1]]
        by_source: dict[ir.Value, list[tuple[ir.Node, int, Array]]] = defaultdict(list)
        slots = {(self.node[node], index): slot for (node, index), slot in self.channels.flow.slots.items()}
        for (node, index), followers in stored.items():
            slot = slots.get((node, index))
            array = self._numbers(node, index, followers, slot)
            if slot is not None:
                self._write_down(node, index, slot, array)
                continue
            source, tensor = graph.constant_source(node.inputs[index]), graph.constant_tensor(node.inputs[index])
            if source is not None and tensor is not None and not np.array_equal(array, tensor.numpy()):
                by_source[source].append((node, index, array))
        for picks in self.channels.flow.picks:
            self._count_anew(picks, by_source)
        for source, changes in by_source.items():
            self._set_integers(source, changes)

    def _numbers(self, node: ir.Node, index: int, followers: list[Follower], slot: Slot | None) -> Array:
        """The numbers at an input, with those that count positions at their new values."""
        tensor = graph.constant_tensor(node.inputs[index]) if slot is None else None
        array = slot.array() if slot is not None else np.array(tensor.numpy()) if tensor is not None else np.zeros(0)
        flat = array.reshape(-1)
        for follower in followers:
            flat[int(follower.element or 0)] = self._extent(follower)
        return array

    def _write_down(self, node: ir.Node, index: int, slot: Slot, array: Array) -> None:
        """Store numbers that were computed, where what they were computed from has changed."""
        if any(self._computed(number) != wanted for number, wanted in zip(slot.numbers, array.flat, strict=True)):
            self._add_input(node, index, f"input{index}", array)

    def _computed(self, number: Number) -> Value | None:
        """What the graph computes for a number by itself; None where that is hard to say."""
        if number.axis is not None:
            return self.channels.extent(number.axis, self.dead)
        changed = any(
            root is not None and not is_fixed(root) and not self.channels.living(root, self.dead).all()
            for root in number.roots
        )
        return None if changed else number.value

    def _count_anew(self, picks: Picks, by_source: dict[ir.Value, list[tuple[ir.Node, int, Array]]]) -> None:
        """A list of indices loses the dead, and points at the same channels as before."""
        living = self.channels.living(picks.before, self.dead)
        if living.all():
            return
        node = self.node[picks.node]
        source, tensor = (
            graph.constant_source(node.inputs[picks.index]),
            graph.constant_tensor(node.inputs[picks.index]),
        )
        if source is None or tensor is None:
            return
        stored = tensor.numpy()
        place = np.cumsum(living) - 1
        chosen = place[picks.chosen[living[picks.chosen]]].astype(stored.dtype)
        shape = list(stored.shape)
        if shape:
            shape[int(np.argmax(shape))] = len(chosen)
        by_source[source].append((node, picks.index, chosen.reshape(shape)))

    def _shrinks(self, original: ir.Node) -> bool:
        """Does the first input of a node lose positions? Where it doesn't, bounds from the end may stay as written."""
        tracked = (
            self.channels.flow.values.get(str(original.inputs[0].name)) if original.inputs[0] is not None else None
        )
        return tracked is None or any(
            ids is not None and not self.channels.living(ids, self.dead).all() for ids in tracked.axes
        )

    def _extent(self, follower: Follower) -> int:
        return self.channels.extent(follower.ids, self.dead) // follower.divisor

    def _set_attribute(self, node: ir.Node, name: str, element: int | None, number: int) -> None:
        if element is None:
            node.attributes[name] = ir.AttrInt64(name, number)
            return
        if name == "split":
            return
        numbers = graph.integers(node, name) or []
        numbers[element] = number
        node.attributes[name] = ir.AttrInt64s(name, numbers)

    def _set_splits(self) -> None:
        """Sizes of a Split that had none stored, or had them in an attribute (before opset 13)."""
        sizes: dict[ir.Node, dict[int, int]] = defaultdict(dict)
        for follower in self.channels.flow.followers:
            if follower.place == "split" and self._shrinks(follower.node):
                sizes[self.node[follower.node]][int(follower.element or 0)] = self._extent(follower)
        for node, pieces in sizes.items():
            numbers = [pieces[index] for index in sorted(pieces)]
            if "split" not in node.attributes and len(set(numbers)) == 1:
                continue
            if self.channels.flow.opset < 13:
                node.attributes["split"] = ir.AttrInt64s("split", numbers)
                continue
            node.attributes.pop("num_outputs", None)
            self._add_input(node, 1, "split", np.asarray(numbers, np.int64))

    def _name_squeezed_axes(self) -> None:
        """A Squeeze that names no axes would take an axis with one channel left along."""
        for original, node in self.node.items():
            named = "axes" in node.attributes or (len(node.inputs) > 1 and node.inputs[1] is not None)
            if node.op_type != "Squeeze" or not graph.is_standard(node) or named:
                continue
            axes = self.channels.flow.axes(original, 0) or ()
            if all(ids is None or len(ids) == 1 or self.channels.extent(ids, self.dead) > 1 for ids in axes):
                continue
            single = [axis for axis, ids in enumerate(axes) if ids is not None and len(ids) == 1]
            if self.channels.flow.opset < 13:
                node.attributes["axes"] = ir.AttrInt64s("axes", single)
            else:
                self._add_input(node, 1, "axes", np.asarray(single, np.int64))

    def _spell_out_defaults(self) -> None:
        """Attributes that are absent, and whose default is computed from an axis that shrinks."""
        for implied in self.channels.flow.implied:
            if not self.channels.living(implied.ids, self.dead).all():
                node = self.node[implied.node]
                node.attributes[implied.name] = ir.AttrFloat32(implied.name, implied.value)

    def _add_input(self, node: ir.Node, index: int, what: str, numbers: Array) -> None:
        """Write down, in a constant of its own, what was implied or computed."""
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        name = f"darwinc/{graph.label(node)}/{what}"
        node.replace_input_with(index, self._initializer(name, ir.tensor(numbers)))

    def _set_integers(self, source: ir.Value, changes: list[tuple[ir.Node, int, Array]]) -> None:
        alike = all(np.array_equal(array, changes[0][2]) for _, _, array in changes)
        if alike and is_read_only_by(source, {(node, index) for node, index, _ in changes}):
            graph.set_constant(source, ir.tensor(changes[0][2], name=str(source.name)))
            for alias in aliases(source):
                alias.shape = None if alias.shape is None else ir.Shape(changes[0][2].shape)
            return
        made: dict[bytes, ir.Value] = {}
        for node, index, array in changes:
            if array.tobytes() not in made:
                made[array.tobytes()] = self._copy(str(source.name), ir.tensor(array))
            node.replace_input_with(index, made[array.tobytes()])

    # Recorded shapes -----------------------------------------------------------------------------------------------

    def cut_recorded_shapes(self) -> None:
        """A value's recorded shape changes together with its tensor."""
        for node in self.model.graph:
            for value in node.outputs:
                tracked = self.channels.flow.values.get(str(value.name))
                if tracked is None or value.shape is None or len(value.shape) != len(tracked.axes):
                    continue
                sizes = [
                    self.channels.extent(ids, self.dead) if ids is not None and isinstance(size, int) else size
                    for size, ids in zip(value.shape, tracked.axes, strict=True)
                ]
                value.shape = ir.Shape(sizes)
