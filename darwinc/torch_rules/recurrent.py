"""LSTM, GRU and RNN, one step at a time.

Shapes: x [T, N, I], weights [D, G * H, I], recurrence [D, G * H, H], bias [D, 2 * G * H] for T steps, N samples,
D directions, H units and G gates in ONNX's order. With `layout` 1 samples come first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .activations import NAMED, Activation, named
from .call import Call, Result, Rule


@dataclass(frozen=True)
class Cell:
    """The weights of one direction, and its activations.

    `clip` bounds what they are given; with `input_forget` a memory forgets as much as comes in.
    """

    recurrence: torch.Tensor
    bias: torch.Tensor
    peephole: torch.Tensor | None
    activations: tuple[Activation, ...]
    clip: float | None
    linear_before_reset: bool
    input_forget: bool

    def bounded(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.clip is None else x.clamp(-self.clip, self.clip)


# (cell, input projection [N, G * H], hidden [N, H], memory [N, H]) -> (hidden, memory)
Advance = Callable[[Cell, torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def _lstm_step(
    cell: Cell, projected: torch.Tensor, hidden: torch.Tensor, memory: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    gate, candidate_of, output_of = cell.activations
    into, out, forget, candidate = F.linear(hidden, cell.recurrence, cell.bias).add(projected).chunk(4, -1)
    peep_in, peep_out, peep_forget = (None,) * 3 if cell.peephole is None else cell.peephole.chunk(3)
    into = into if peep_in is None else into + peep_in * memory
    forget = forget if peep_forget is None else forget + peep_forget * memory
    entering = gate(cell.bounded(into))
    staying = 1 - entering if cell.input_forget else gate(cell.bounded(forget))
    memory = staying * memory + entering * candidate_of(cell.bounded(candidate))
    out = out if peep_out is None else out + peep_out * memory
    return gate(cell.bounded(out)) * output_of(memory), memory


def _gru_step(
    cell: Cell, projected: torch.Tensor, hidden: torch.Tensor, memory: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    gate, candidate_of = cell.activations
    split = 2 * hidden.shape[-1]
    weight, bias = cell.recurrence, cell.bias
    both = F.linear(hidden, weight[:split], bias[:split]) + projected[..., :split]
    update, reset = gate(cell.bounded(both)).chunk(2, -1)
    if cell.linear_before_reset:
        recalled = reset * F.linear(hidden, weight[split:], bias[split:])
    else:
        recalled = F.linear(reset * hidden, weight[split:], bias[split:])
    candidate = candidate_of(cell.bounded(projected[..., split:] + recalled))
    return (1 - update) * candidate + update * hidden, memory


def _rnn_step(
    cell: Cell, projected: torch.Tensor, hidden: torch.Tensor, memory: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return cell.activations[0](cell.bounded(F.linear(hidden, cell.recurrence, cell.bias) + projected)), memory


@dataclass(frozen=True)
class Recurrence:
    """What sets one recurrent operator apart."""

    activations: tuple[str, ...]
    advance: Advance

    def __call__(self, call: Call) -> Result:
        """Y [T, D, N, H], the last hidden state [D, N, H], and for an LSTM the last memory [D, N, H]."""
        first_samples = call.integer("layout", 0)
        x = call.first.transpose(0, 1) if first_samples else call.first
        direction = call.text("direction", "forward")
        backwards = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}[direction]
        ways = [self._one_way(call, x, index, reverse, first_samples) for index, reverse in enumerate(backwards)]
        axis = 2 if first_samples else 1
        sequence = torch.stack([way[0] for way in ways], 1)
        sequence = sequence.permute(2, 0, 1, 3) if first_samples else sequence
        last, memory = (torch.stack([way[part] for way in ways], axis - 1) for part in (1, 2))
        return (sequence, last, memory)[: max(1, len(call.step.outputs))]

    def _one_way(
        self, call: Call, x: torch.Tensor, index: int, reverse: bool, first_samples: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        weight, recurrence, bias = call.tensor(1)[index], call.tensor(2)[index], call.optional(3)
        rows, units = recurrence.shape
        bias = x.new_zeros(2 * rows) if bias is None else bias[index]
        projected = F.linear(x, weight, bias[:rows])
        cell = self._cell(call, index, recurrence, bias[rows:])
        hidden, memory = (self._initial(call, position, index, x, units, first_samples) for position in (5, 6))
        lengths = call.optional(4)
        outputs: dict[int, torch.Tensor] = {}
        for step in reversed(range(x.shape[0])) if reverse else range(x.shape[0]):
            new_hidden, new_memory = self.advance(cell, projected[step], hidden, memory)
            if lengths is None:
                hidden, memory = new_hidden, new_memory
                outputs[step] = hidden
                continue
            alive = (step < lengths)[:, None]
            hidden, memory = torch.where(alive, new_hidden, hidden), torch.where(alive, new_memory, memory)
            outputs[step] = torch.where(alive, new_hidden, torch.zeros_like(new_hidden))
        return torch.stack([outputs[step] for step in range(x.shape[0])]), hidden, memory

    def _cell(self, call: Call, index: int, recurrence: torch.Tensor, bias: torch.Tensor) -> Cell:
        count = len(self.activations)
        peephole = call.optional(7)
        return Cell(
            recurrence,
            bias,
            None if peephole is None else peephole[index],
            _activations(call, self.activations)[index * count : (index + 1) * count],
            call.real("clip", 0.0) or None,
            bool(call.integer("linear_before_reset", 0)),
            bool(call.integer("input_forget", 0)),
        )

    def _initial(
        self, call: Call, position: int, index: int, x: torch.Tensor, units: int, first_samples: int
    ) -> torch.Tensor:
        state = call.optional(position)
        if state is None:
            return x.new_zeros(x.shape[1], units)
        return state[:, index] if first_samples else state[index]


def _activations(call: Call, usual: tuple[str, ...]) -> tuple[Activation, ...]:
    """The activations of all directions; each takes its parameters from the front of the two lists."""
    names = call.attributes.get("activations")
    names = names if isinstance(names, tuple) else 2 * usual
    lists = [list(call.reals(key) or ()) for key in ("activation_alpha", "activation_beta")]
    found = []
    for name in map(str, names):
        defaults = NAMED[name].defaults if name in NAMED else ()
        given = [values.pop(0) if values else default for values, default in zip(lists, defaults, strict=False)]
        found.append(named(call, name, given))
    return tuple(found)


RULES: dict[str, Rule] = {
    "LSTM": Recurrence(("Sigmoid", "Tanh", "Tanh"), _lstm_step),
    "GRU": Recurrence(("Sigmoid", "Tanh"), _gru_step),
    "RNN": Recurrence(("Tanh",), _rnn_step),
}
