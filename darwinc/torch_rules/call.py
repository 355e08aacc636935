"""What a torch rule is handed: one node, decoded once when the twin is built, and the tensors of this forward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, cast

import onnx_ir as ir
import torch

from darwinc import graph as graphs
from darwinc.errors import UnsupportedOperator

from .convert import ONNX_TYPES, Attribute, torch_type

Literal: TypeAlias = tuple[int | float | bool, ...]
Result: TypeAlias = torch.Tensor | Sequence[torch.Tensor]
Operands: TypeAlias = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Body:
    """A graph that a node carries.

    Attributes:
        inputs: the names of what the node hands it.
        around: the names of the values that it reads from the graph around the node.
        run: from values by all these names to its outputs.
    """

    inputs: tuple[str, ...]
    around: tuple[str, ...]
    run: Callable[[dict[str, torch.Tensor]], list[torch.Tensor]]


@dataclass(frozen=True, eq=False)
class Step:
    """One node of the twin, in topological order.

    Attributes:
        op_type: the key of its rule: the operator's name, after its domain where that isn't the standard's.
        name: what messages call the node.
        inputs: value names, None for an operand that was left out; what only the node's bodies read comes last.
        outputs: value names, "" for an output that was left out.
        release: values that nobody reads after this step; outputs that nobody reads at all are among them.
        attributes: the node's attributes as Python values and torch tensors.
        literals: operands that are constants read as Python numbers, by position.
        bodies: the graphs among the node's attributes.
    """

    node: ir.Node
    op_type: str
    name: str
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    release: tuple[str, ...] = ()
    attributes: Mapping[str, Attribute] = field(default_factory=dict, repr=False)
    literals: Mapping[int, Literal] = field(default_factory=dict, repr=False)
    bodies: Mapping[str, Body] = field(default_factory=dict, repr=False)


class Call:
    """One evaluation of a step.

    Operands are tensors, None where left out; attributes come with their defaults, shape operands as Python numbers.
    `training` says that statistics are those of the batch.
    """

    __slots__ = ("attributes", "device", "opset", "step", "tensors", "training")

    def __init__(
        self,
        step: Step,
        tensors: tuple[torch.Tensor | None, ...],
        opset: int,
        device: torch.device,
        *,
        training: bool = False,
    ) -> None:
        self.step = step
        self.tensors = tensors
        self.opset = opset
        self.device = device
        self.training = training
        self.attributes = step.attributes

    @property
    def node(self) -> ir.Node:
        return self.step.node

    @property
    def first(self) -> torch.Tensor:
        """The first operand, which every operator but a few has."""
        return cast(torch.Tensor, self.tensors[0])

    @property
    def own(self) -> tuple[torch.Tensor | None, ...]:
        """The node's operands without those that only its bodies read."""
        return self.tensors[: len(self.node.inputs)]

    def body(self, name: str) -> Callable[..., list[torch.Tensor]]:
        """A graph that the node carries, as a function of the values that the node hands it."""
        body = self.step.bodies[name]
        named = zip(self.step.inputs, self.tensors, strict=True)
        around = {key: tensor for key, tensor in named if key in body.around and tensor is not None}
        return lambda *operands: body.run({**around, **dict(zip(body.inputs, operands, strict=True))})

    def tensor(self, position: int) -> torch.Tensor:
        """An operand that can't be left out."""
        return cast(torch.Tensor, self.tensors[position])

    def optional(self, position: int) -> torch.Tensor | None:
        """An operand, or None where it was left out."""
        return self.tensors[position] if position < len(self.tensors) else None

    def has(self, position: int) -> bool:
        """Was this operand given?"""
        return position < len(self.tensors) and self.tensors[position] is not None

    def on(self, *tensors: torch.Tensor | None) -> Call:
        """The same node on other operands: what a fused or quantized operator has in common with a plain one."""
        return Call(self.step, tensors, self.opset, self.device, training=self.training)

    def onnx_type(self, position: int) -> ir.DataType:
        """The type that the model declares for an operand, which may be narrower than the one it is computed in."""
        value = self.node.inputs[position]
        stored = graphs.constant_tensor(value)
        declared = stored.dtype if stored is not None else value.dtype if value is not None else None
        return declared or ONNX_TYPES[self.tensor(position).dtype]

    def _numbers(self, position: int) -> Literal:
        literal = self.step.literals.get(position)
        if literal is None:
            literal = tuple(self.tensor(position).reshape(-1).tolist())
        return literal

    def integers(self, position: int) -> tuple[int, ...]:
        """A shape-like operand as Python integers; no device sync where it is a constant."""
        return cast(tuple[int, ...], self._numbers(position))

    def integers_or(self, position: int, default: tuple[int, ...] | None) -> tuple[int, ...] | None:
        """A shape-like operand, or the default where it was left out."""
        return self.integers(position) if self.has(position) else default

    def numbers(self, position: int) -> tuple[float, ...]:
        """A list of numbers that configures the operator (bounds, scales), as Python floats."""
        return cast(tuple[float, ...], self._numbers(position))

    def number(self, position: int, default: float | None) -> float | None:
        """A scalar operand, or the default where it was left out."""
        return self.numbers(position)[0] if self.has(position) else default

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        return cast(int, self.attributes.get(name, default))

    def real(self, name: str, default: float) -> float:
        """A floating-point attribute."""
        return cast(float, self.attributes.get(name, default))

    def text(self, name: str, default: str) -> str:
        """A string attribute."""
        return cast(str, self.attributes.get(name, default))

    def listed(self, name: str) -> tuple[int, ...] | None:
        """A list of integers, or None where the attribute is absent."""
        return cast("tuple[int, ...] | None", self.attributes.get(name))

    def reals(self, name: str) -> tuple[float, ...] | None:
        """A list of floating-point numbers, or None where the attribute is absent."""
        return cast("tuple[float, ...] | None", self.attributes.get(name))

    def data_type(self, name: str, default: ir.DataType) -> torch.dtype:
        """An attribute that names an ONNX type, as the torch type it is computed in."""
        return torch_type(self.integer(name, int(default)), f"the result of node {self.step.name!r}")

    def unsupported(self, what: str) -> UnsupportedOperator:
        """The error for a variant of the operator that has no rule."""
        return UnsupportedOperator(
            f"torch has no rule for {self.step.op_type} with {what}, as node {self.step.name!r} has it"
        )


Rule: TypeAlias = Callable[[Call], Result]
