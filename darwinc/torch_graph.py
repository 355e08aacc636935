"""The ONNX graph as a torch module whose parameters are the model's constants, by name.

Torch borrows the weights to measure and train, and `write_back` returns them: the model is never exported from torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TypeAlias

import onnx_ir as ir
import torch

from darwinc import graph as graphs
from darwinc.errors import DarwincError, InvalidData, UnsupportedOperator
from darwinc.torch_fusions import FUSED_RULES
from darwinc.torch_plan import LONGEST_LITERAL, Plan, Source, plan, with_releases
from darwinc.torch_rules import HOST_OPERANDS, RULES, UNTRAINED, Call, Rule, Step
from darwinc.torch_rules.bodies import standing_alone
from darwinc.torch_rules.call import Body, Literal
from darwinc.torch_rules.convert import (
    FeedValue,
    attributes,
    from_feed,
    input_type,
    output_type,
    same_bits,
    to_onnx,
    to_torch,
)

__all__ = ["Environment", "Step", "TorchGraph"]

Environment: TypeAlias = Mapping[str, torch.Tensor]

PLANS_KEPT = 8
"""Shapes of inputs whose plans a fused twin keeps: a training run has two, that of its batches and that of the last."""


class TorchGraph(torch.nn.Module):
    """An ONNX model that torch runs and differentiates. Floats of two bytes or less are computed in float32.

    The bodies of If, Loop and Scan are run too; tensors that they store are used as they are, and not trained.

    Args:
        model: a valid model; it is read, not changed.
        device: where weights live and floating-point work is done.
        rules: the rule of each operator; pass `{**RULES, "Relu": mine}` to replace one.
        fused: `forward` runs patterns of nodes as one (`torch_fusions`): faster, and equal but for rounding.
            Numbers that nodes of the graph hold, and those that become part of a fused step, are not trained then.
        keep: values that `forward` can give beside the outputs where it is fused.

    Attributes:
        steps: the nodes in topological order, without those that only make constants.
        inputs: names that a feed must give (initializers that are also inputs are left out).
        outputs: names of what `forward` gives.

    Raises:
        UnsupportedOperator: an operator or a type without a rule. A variant that has no rule (BatchNormalization in
            training mode, say) raises it when it is first run.
    """

    def __init__(
        self,
        model: ir.Model,
        *,
        device: torch.device | str = "cpu",
        rules: Mapping[str, Rule] = RULES,
        fused: bool = False,
        keep: Collection[str] = (),
    ) -> None:
        super().__init__()
        graph = model.graph
        self._rules = {**rules, **FUSED_RULES} if fused else rules
        self._opset = graphs.opset(model)
        self._home = torch.device(device)
        self._weights: dict[str, torch.nn.Parameter] = {}
        self._constants: dict[str, torch.Tensor] = {}
        self._literals: dict[str, Literal] = {}
        self._moving: frozenset[str] = frozenset()
        self.inputs = tuple(str(value.name) for value in graph.inputs if value.name not in graph.initializers)
        self.outputs = tuple(str(value.name) for value in graph.outputs)
        self._input_types = {str(value.name): input_type(value) for value in graph.inputs}
        self._output_types = {str(value.name): output_type(value) for value in graph.outputs}
        for name, tensor in graphs.constants(model).items():
            self._adopt(name, tensor)
        self._anchor = next(iter(self._weights.values()), None)
        self._opsets = dict(graph.opset_imports)
        self._bodies: list[TorchGraph] = []
        self.steps = with_releases(self._build(model), {*self.outputs, *self._constants})
        self.bodies = torch.nn.ModuleList(self._bodies)
        self._freeze()
        self._moving = self._with_own_statistics()
        self.weight_list = torch.nn.ParameterList(self._weights.values())
        self._plans: dict[tuple[torch.device, tuple[torch.Size, ...]], Plan] = {}
        self._source = self._planned_from(model, keep) if fused else None
        self.eval()

    def _adopt(self, name: str, tensor: ir.TensorProtocol) -> None:
        """Make a stored tensor a parameter, or a plain tensor where it isn't floating point."""
        value = to_torch(tensor, f"the constant {name!r}")
        self._note_literal(name, value)
        if value.is_floating_point():
            self._constants[name] = self._weights[name] = torch.nn.Parameter(value.to(self._home))
        else:
            self._constants[name] = value if value.numel() <= LONGEST_LITERAL else value.to(self._home)

    def _build(self, model: ir.Model) -> list[Step]:
        steps = []
        for node in model.graph:
            outputs = tuple(str(value.name or "") for value in node.outputs)
            if outputs and outputs[0] in self._constants:
                continue
            step = self._step(node, outputs)
            if step.op_type == "Identity" and step.inputs[0] in self._constants:
                self._alias(outputs[0], step.inputs[0])
            elif not self._fold(step):
                steps.append(step)
        return steps

    def _alias(self, name: str, source: str) -> None:
        self._constants[name] = self._constants[source]
        if source in self._literals:
            self._literals[name] = self._literals[source]

    def _step(self, node: ir.Node, outputs: tuple[str, ...]) -> Step:
        name = graphs.label(node)
        operator = node.op_type if graphs.is_standard(node) else f"{node.domain}::{node.op_type}"
        if operator not in self._rules:
            raise UnsupportedOperator(f"torch has no rule for the operator {operator} of node {name!r}")
        inputs = tuple(value.name if value is not None and value.name else None for value in node.inputs)
        bodies = {key: self._body(attribute.as_graph()) for key, attribute in _graphs(node)}
        around = sorted({name for body in bodies.values() for name in body.around} - set(inputs))
        read = [(position, inputs[position]) for position in HOST_OPERANDS.get(operator, ()) if position < len(inputs)]
        literals = {position: self._literals[operand] for position, operand in read if operand in self._literals}
        inputs = (*inputs, *around)
        return Step(node, operator, name, inputs, outputs, (), attributes(node, name), literals, bodies)

    def _body(self, graph: ir.Graph) -> Body:
        """A twin of a node's body, whose own tensors ask for no gradient."""
        model, around = standing_alone(graph, self._opsets)
        twin = TorchGraph(model, device=self._home, rules=self._rules)
        twin.requires_grad_(False)
        twin._moving = frozenset()
        self._bodies.append(twin)
        return Body(tuple(str(value.name) for value in graph.inputs), around, twin._inside)

    def _inside(self, environment: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """The outputs from values by name, neither checked nor cast; work is done where the values are."""
        devices = (value.device for value in environment.values())
        self._home = next((device for device in devices if device.type != "cpu"), torch.device("cpu"))
        self._evaluate_all(self.steps, environment, ())
        return [self.value(name, environment) for name in self.outputs]

    def _note_literal(self, name: str, value: torch.Tensor) -> None:
        if value.numel() <= LONGEST_LITERAL and value.device.type == "cpu":
            self._literals[name] = tuple(value.detach().reshape(-1).tolist())

    def _fold(self, step: Step) -> bool:
        """Evaluate now what depends on no input and no weight; True where the step has become constants."""
        known = [self._constants.get(name) for name in step.inputs if name is not None]
        sizes_only = step.op_type in ("Shape", "Size")
        if not known or any(value is None or (value.is_floating_point() and not sizes_only) for value in known):
            return False
        results = self.run(step, {})
        if step.op_type != "ConstantOfShape" and any(result.is_floating_point() for result in results):
            return False
        for name, result in zip(step.outputs, results, strict=False):
            self._constants[name] = result
            self._note_literal(name, result)
        return True

    def _freeze(self) -> None:
        """Parameters that are only read where no gradient flows ask for none."""
        trained: set[str | None] = set(self.outputs)
        untrained: set[str | None] = set()
        for step in self.steps:
            positions = UNTRAINED.get(step.op_type, ())
            for position, name in enumerate(step.inputs):
                (untrained if position in positions else trained).add(name)
        weighing = {id(self._constants[name]) for name in trained if name in self._constants}
        for name in untrained:
            value = self._constants.get(name or "")
            if isinstance(value, torch.nn.Parameter) and id(value) not in weighing:
                value.requires_grad_(False)

    def _with_own_statistics(self) -> frozenset[str]:
        """What the steps make whose running statistics nobody else reads: those that may move while the twin trains."""
        norms = [step for step in self.steps if step.op_type == "BatchNormalization"]
        uses = Counter(id(self._constants.get(name or "")) for step in self.steps for name in step.inputs)
        return frozenset(
            step.outputs[0]
            for step in norms
            if all(
                isinstance(value := self._constants.get(name or ""), torch.nn.Parameter) and uses[id(value)] == 1
                for name in step.inputs[3:5]
            )
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are now."""
        return self._home if self._anchor is None else self._anchor.device

    def forward(self, feed: Mapping[str, FeedValue], also: Collection[str] = ()) -> dict[str, torch.Tensor]:
        """The graph's outputs by name, in their declared types; intermediates are freed after their last reader.

        In training mode (`train()`) every BatchNormalization normalises by the batch and moves its running statistics;
        one that shares them with another node doesn't.

        Args:
            feed: arrays by input name.
            also: names of values that are wanted in the type they are computed in, inside the graph or outputs.

        Raises:
            DarwincError: the twin is fused, and `also` names a value that isn't in `keep`.
            InvalidData: the feed's names are not the graph's inputs.
        """
        wanted = frozenset(also)
        if self._source is not None and not wanted <= self._source.kept:
            lost = ", ".join(sorted(wanted - self._source.kept))
            raise DarwincError(f"The fused twin doesn't hold {lost}; name the values to be read in `keep`.")
        environment = self.enter(feed)
        return self.walk(self.plan(environment), environment, wanted)

    def walk(
        self, planned: Plan, environment: dict[str, torch.Tensor], wanted: Collection[str] = ()
    ) -> dict[str, torch.Tensor]:
        """The outputs, and what is wanted beside them, from what `enter` gave; the environment is used up."""
        environment.update(planned.constants)
        found = self._evaluate_all(planned.steps, environment, wanted)
        found |= {name: self.value(name, environment) for name in wanted if name not in found}
        # An output that was asked for by name comes as it was computed: a gradient doesn't survive a cast to half.
        return self.leave(environment) | found

    def _evaluate_all(
        self, steps: Sequence[Step], environment: dict[str, torch.Tensor], wanted: Collection[str]
    ) -> dict[str, torch.Tensor]:
        """Evaluate every step; what is wanted of the values that are freed on the way."""
        device = self.device
        found: dict[str, torch.Tensor] = {}
        for step in steps:
            environment.update(zip(step.outputs, self._evaluate(step, environment, device), strict=False))
            for name in step.release:
                value = environment.pop(name, None)
                if value is not None and name in wanted:
                    found[name] = value
        return found

    def plan(self, environment: Environment) -> Plan:
        """What `forward` runs for inputs of these shapes; made when it is first asked for."""
        if self._source is None:
            return Plan(self.steps, {})
        key = self.device, tuple([environment[name].shape for name in self.inputs])
        found = self._plans.get(key)
        if found is None:
            if len(self._plans) == PLANS_KEPT:
                del self._plans[next(iter(self._plans))]
            found = self._plans[key] = plan(self._source, environment, self.device)
            self._hold(found.absorbed & self._weights.keys())
        return found

    def _hold(self, names: Collection[str]) -> None:
        """Numbers of formulas that are read as numbers must not move."""
        for name in names:
            self._weights[name].requires_grad_(False)

    def _planned_from(self, model: ir.Model, keep: Collection[str]) -> Source:
        held = {str(node.outputs[0].name) for node in model.graph if node.op_type == "Constant"}
        literals = frozenset(name for name in held & self._weights.keys() if self._weights[name].numel() == 1)
        self._hold(literals)
        kept = frozenset((*self.outputs, *keep))
        return Source(self.steps, self._constants, literals, kept, self._opset, self._on_meta)

    def _on_meta(self, step: Step, environment: Environment) -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            return self._evaluate(step, environment, torch.device("meta"))

    def detached(self, feed: Mapping[str, FeedValue]) -> dict[str, torch.Tensor]:
        """`forward` without recording gradients; a weight that is an output is given as a plain tensor."""
        with torch.no_grad():
            return {name: value.detach() for name, value in self.forward(feed).items()}

    def enter(self, feed: Mapping[str, FeedValue]) -> dict[str, torch.Tensor]:
        """A feed as the environment that the first step starts from.

        Raises:
            InvalidData: the feed's names are not the graph's inputs.
        """
        if feed.keys() != set(self.inputs):
            given, wanted = ", ".join(sorted(feed)) or "nothing", ", ".join(self.inputs) or "nothing"
            raise InvalidData(
                f"The feed holds {given}, but the model's inputs are {wanted}; name the arrays after the inputs."
            )
        device = self.device
        return {name: from_feed(value, self._input_types[name], name).to(device) for name, value in feed.items()}

    def leave(self, environment: Environment) -> dict[str, torch.Tensor]:
        """The graph's outputs, picked from the environment after the last step."""
        found = {name: self.value(name, environment) for name in self.outputs}
        declared = ((name, self._output_types[name]) for name in self.outputs)
        return {name: found[name] if dtype is None else found[name].to(dtype) for name, dtype in declared}

    def run(self, step: Step, environment: Environment) -> tuple[torch.Tensor, ...]:
        """Evaluate one step; its operands are looked up in the environment, then among the constants."""
        return self._evaluate(step, environment, self.device)

    def _evaluate(self, step: Step, environment: Environment, device: torch.device) -> tuple[torch.Tensor, ...]:
        tensors = tuple([None if name is None else self.value(name, environment) for name in step.inputs])
        if device.type != "cpu":
            tensors = _on_one_device(tensors, HOST_OPERANDS.get(step.op_type, ()))
        training = self.training and step.outputs[0] in self._moving
        result = self._rules[step.op_type](Call(step, tensors, self._opset, device, training=training))
        return (result,) if isinstance(result, torch.Tensor) else tuple(result)[: len(step.outputs)]

    def value(self, name: str, environment: Environment) -> torch.Tensor:
        """A value by name: computed, or a constant."""
        found = environment.get(name)
        return self._constants[name] if found is None else found

    def constant(self, name: str) -> torch.Tensor:
        """A constant by its ONNX value name: the Parameter where it is a stored floating-point tensor.

        An Identity of a stored tensor shares its Parameter; what ConstantOfShape makes is a plain tensor.

        Raises:
            KeyError: the value is computed from the inputs, or doesn't exist.
        """
        return self._constants[name]

    def is_constant(self, name: str | None) -> bool:
        """Is this value one that no input changes?"""
        return name in self._constants

    def weights(self) -> dict[str, torch.nn.Parameter]:
        """Every floating-point tensor that the model stores, by ONNX name.

        Those that only configure an operator (bounds of Clip, exponents of Pow, scales of Resize) and the statistics
        of BatchNormalization don't require gradients.
        """
        return dict(self._weights)

    def write_back(self, model: ir.Model) -> None:
        """Put the parameters into the model's initializers and Constant nodes, in the type that each is stored in.

        A tensor whose parameter didn't change keeps its bits.

        Raises:
            DarwincError: the model has no constant of this name and shape.
        """
        stored, values = graphs.constants(model), _constant_values(model)
        for name, parameter in self._weights.items():
            tensor = stored.get(name)
            if tensor is None or tuple(tensor.shape) != tuple(parameter.shape):
                shape = list(parameter.shape)
                raise DarwincError(f"The model has no constant {name!r} of shape {shape} to write the weights back to.")
            value = parameter.detach().cpu()
            if not same_bits(value, to_torch(tensor, name)):
                graphs.set_constant(values[name], to_onnx(value, tensor.dtype, name))


def _constant_values(model: ir.Model) -> dict[str, ir.Value]:
    """The values whose tensors the file stores, by name."""
    values = dict(model.graph.initializers.items())
    for node in model.graph:
        if node.op_type == "Constant" and graphs.is_standard(node):
            values[str(node.outputs[0].name)] = node.outputs[0]
    return values


def _graphs(node: ir.Node) -> Iterator[tuple[str, ir.Attr]]:
    """The attributes of a node that hold a graph."""
    return ((key, value) for key, value in node.attributes.items() if value.type == ir.AttributeType.GRAPH)


def _on_one_device(tensors: tuple[torch.Tensor | None, ...], host: tuple[int, ...]) -> tuple[torch.Tensor | None, ...]:
    """Move operands in host memory to the device where the others are; those that are read as numbers stay."""
    present = [tensor for position, tensor in enumerate(tensors) if tensor is not None and position not in host]
    device = next((tensor.device for tensor in present if tensor.device.type != "cpu"), None)
    if device is None or all(tensor.device == device for tensor in present):
        return tensors
    return tuple(
        tensor if tensor is None or position in host else tensor.to(device) for position, tensor in enumerate(tensors)
    )
