"""What a network in training is told: the teacher's answers, inner values, labels; and how good it is by them.

Softened class scores: Geoffrey Hinton et al., *Distilling the Knowledge in a Neural Network*, 2015.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias, cast

import torch
import torch.nn.functional as F

from darwinc.calibrators.statistics import class_log_probabilities
from darwinc.calibrators.training.features import Feature
from darwinc.errors import InvalidData, UsageError
from darwinc.torch_graph import TorchGraph
from darwinc.training import find_loss, judge_loss

Tensors: TypeAlias = Mapping[str, torch.Tensor]
UserLoss: TypeAlias = Callable[[dict[str, torch.Tensor], torch.Tensor], torch.Tensor]

SIGMOIDS = ("Sigmoid", "HardSigmoid")
MOVERS = frozenset({
    "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast", "Slice", "Resize", "Upsample",
})  # fmt: skip
STEADY, SILENT = 1e-4, 1e-8
"""A column's variance counts as at least these shares of its own mean square, and of the mean over columns."""
TINY = 1e-6
NO_CLASS = -1
"""What is ignored where 255 is a class."""


@dataclass(frozen=True)
class Ending:
    """A tensor at which a loss is taken.

    Attributes:
        name: of the value.
        kind: classes [N, K], dense [N, K, H, W], binary (probabilities, each by itself), values, or ignore.
        probabilities: class scores are probabilities already; else they are logits.
    """

    name: str
    kind: str
    probabilities: bool = False

    def logits(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores as logits [N, K] or [N, K, H, W]; softmax doesn't tell logarithms of probabilities from logits."""
        scores = scores.float()
        scores = scores.reshape(scores.shape[0], -1) if self.kind == "classes" else scores
        return (scores.clamp_min(0) + 1e-12).log() if self.probabilities else scores

    def divergence(self, wanted: torch.Tensor, got: torch.Tensor, temperature: float) -> torch.Tensor:
        """How far an answer is from the teacher's: nats for classes, else the share of the teacher's spread missed."""
        if self.kind in ("classes", "dense"):
            return _softened(self.logits(wanted), self.logits(got), temperature)
        if self.kind == "binary":
            return _unexplained(wanted.float(), got.float())
        return missed_share(wanted, got)


def _softened(wanted: torch.Tensor, got: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 KL(softmax(wanted / T) || softmax(got / T)), mean over samples and positions."""
    target = F.log_softmax(wanted / temperature, 1)
    return (target.exp() * (target - F.log_softmax(got / temperature, 1))).sum(1).mean() * temperature**2


def _unexplained(wanted: torch.Tensor, got: torch.Tensor) -> torch.Tensor:
    """KL between Bernoulli variables, over what knowing only their mean would cost."""
    wanted, got = (value.clamp(TINY, 1 - TINY) for value in (wanted, got))
    rate = wanted.mean()

    def cost(guess: torch.Tensor) -> torch.Tensor:
        return (wanted * (wanted / guess).log() + (1 - wanted) * ((1 - wanted) / (1 - guess)).log()).mean()

    return cost(got) / cost(rate.expand_as(wanted)).clamp_min(TINY)


def missed_share(wanted: torch.Tensor, got: torch.Tensor) -> torch.Tensor:
    """Squared error over variance, mean over columns (channels of [N, C, H, W], else the last axis).

    Columns may be of any scale: boxes in pixels beside probabilities. One that hardly varies is measured by its size.
    """
    wanted, got = wanted.float(), got.float()
    axis = 1 if wanted.ndim == 4 else wanted.ndim - 1
    others = [place for place in range(wanted.ndim) if place != axis] or [0]
    error = (got - wanted).square().mean(others)
    size = wanted.square().mean(others)
    spread = size - wanted.mean(others).square()
    return (error / (spread.clamp_min(0) + STEADY * size + SILENT * size.mean() + 1e-12)).mean()


def infer_endings(twin: TorchGraph, names: Sequence[str], answers: Tensors, told: Mapping[str, str]) -> list[Ending]:
    """What each tensor is, from the teacher's answers to one batch and from what made it.

    Args:
        twin: the original.
        names: of the tensors (`endings.differentiable_endings`).
        answers: its values for one batch.
        told: kinds by name, which win.

    Raises:
        InvalidData: answers that aren't finite.
        UsageError: a kind was told for a name that is none of `names`, or that its shape can't be.
    """
    unknown = sorted(set(told) - set(names))
    if unknown:
        raise UsageError(
            f"--outputs names {unknown[0]!r}, but losses are taken at {', '.join(names)}; name one of them."
        )
    producers = {name: step for step in twin.steps for name in step.outputs}
    found = []
    for name in names:
        value = answers[name]
        kind = told.get(name) or ("ignore" if not value.numel() else _kind(name, value, producers))
        if kind != "ignore" and not bool(value.isfinite().all()):
            raise InvalidData(
                f"The original's own {name!r} holds values that aren't finite, which nothing can be held to; give "
                f"--outputs {name}=ignore."
            )
        if kind in ("classes", "dense") and value.ndim < 2:
            raise UsageError(f"--outputs says that {name!r} holds {kind}, but its shape is {list(value.shape)}.")
        flat = value.reshape(value.shape[0], -1) if kind == "classes" else value
        found.append(Ending(name, kind, kind in ("classes", "dense") and _are_probabilities(flat)))
    return found


def _kind(name: str, value: torch.Tensor, producers: Mapping[str, object]) -> str:
    if value.ndim >= 2 and value.numel() == value.shape[0] * value.shape[1]:
        if class_log_probabilities(value.reshape(value.shape[0], -1)) is not None:
            return "classes"
    elif value.ndim == 4 and value.shape[1] > 1 and _are_probabilities(value):
        return "dense"
    return "binary" if _from_sigmoid(name, producers) else "values"


def _are_probabilities(value: torch.Tensor) -> bool:
    return bool((value >= 0).all()) and bool(((value.float().sum(1) - 1).abs() < 1e-3).all())


def _from_sigmoid(name: str, producers: Mapping[str, object]) -> bool:
    step = producers.get(name)
    while step is not None and getattr(step, "op_type", "") in MOVERS:
        step = producers.get(getattr(step, "inputs", ("",))[0])
    return getattr(step, "op_type", "") in SIGMOIDS


@dataclass(frozen=True)
class Supervision:
    """Labels, and the loss that reads them.

    `kind` is cross-entropy (labels [N] and scores [N, K]), binary (labels and outputs of one shape), dense (labels
    [N, H, W] and scores [N, K, h, w]) or custom, for which `function` takes outputs by name and labels. Labels that are
    `ignored` don't count.
    """

    kind: str
    ending: Ending
    ignored: int = 255
    function: UserLoss | None = None

    def loss(self, outputs: Tensors, labels: torch.Tensor) -> torch.Tensor:
        """A scalar."""
        if self.function is not None:
            return self.function(dict(outputs), labels)
        got = outputs[self.ending.name]
        if self.kind == "binary":
            target = labels.to(got.dtype).reshape(got.shape).float()
            if self.ending.kind == "binary":
                return F.binary_cross_entropy(got.float().clamp(TINY, 1 - TINY), target)
            return F.binary_cross_entropy_with_logits(got.float(), target)
        total = F.cross_entropy(self._scores(got, labels), labels.long(), ignore_index=self.ignored, reduction="sum")
        return total / (labels != self.ignored).sum().clamp_min(1)

    def mistakes(self, outputs: Tensors, labels: torch.Tensor) -> torch.Tensor:
        """The share of samples or pixels that are wrong [..]; of a custom or binary loss the loss itself."""
        if self.kind not in ("cross-entropy", "dense"):
            return self.loss(outputs, labels)
        wrong = self._scores(outputs[self.ending.name], labels).argmax(1) != labels
        known = labels != self.ignored
        return (wrong & known).float().sum() / known.sum().clamp_min(1)

    def _scores(self, got: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        scores = self.ending.logits(got)
        if self.kind == "dense" and scores.shape[2:] != labels.shape[1:]:
            scores = F.interpolate(scores, tuple(labels.shape[1:]), mode="bilinear", align_corners=False)
        return scores


def supervise(
    loss: str, endings: Sequence[Ending], answers: Tensors, labels: torch.Tensor, ignored: int = 255
) -> Supervision:
    """The supervision that `loss` names; `auto` reads it from the labels' shape and type.

    Raises:
        InvalidData: no output of the model fits the labels.
        UsageError: a loss that doesn't exist.
    """
    if ":" in loss:
        return Supervision("custom", endings[0], ignored, partial(_guarded, loss, cast(UserLoss, find_loss(loss))))
    judge_loss(loss)
    kind = loss if loss != "auto" else _loss_of(labels)
    ranks = {"cross-entropy": "classes", "dense": "dense", "binary": ""}
    for ending in endings:
        value = answers[ending.name]
        if value.ndim == 0:
            continue
        per_sample = value.numel() == value.shape[0] * value.shape[1] if value.ndim >= 2 else False
        fits = {
            "cross-entropy": per_sample and labels.ndim == 1,
            "dense": value.ndim == 4 and value.shape[1] > 1 and labels.ndim == 3,
            "binary": value[:1].numel() == labels[:1].numel(),
        }[kind]
        if fits:
            if kind == "cross-entropy" and value.shape[1] > ignored:
                ignored = NO_CLASS
            return Supervision(kind, Ending(ending.name, ranks[kind] or ending.kind, ending.probabilities), ignored)
    shapes = ", ".join(f"{ending.name} {list(answers[ending.name].shape)}" for ending in endings)
    raise InvalidData(
        f"Labels of shape {list(labels.shape)} were found, which the {kind} loss can't compare with any output "
        f"({shapes}); give labels [N] for class scores [N, K], [N, H, W] for maps [N, K, H, W], or --loss."
    )


def _guarded(spec: str, function: UserLoss, outputs: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """What the function returns. It's the user's code, so anything may come out of it."""
    try:
        found = function(outputs, labels)
    except Exception as error:
        raise UsageError(
            f"--loss {spec} raised {type(error).__name__} ({error}); it is given the outputs {', '.join(outputs)} by "
            f"name and labels of shape {list(labels.shape)}."
        ) from error
    if not isinstance(found, torch.Tensor) or found.numel() != 1:
        what = f"shape {list(found.shape)}" if isinstance(found, torch.Tensor) else f"a {type(found).__name__}"
        raise UsageError(f"--loss {spec} returned {what}; return a tensor with a single number.")
    if any(value.requires_grad for value in outputs.values()) and not found.requires_grad:
        raise UsageError(f"--loss {spec} returned a number that no gradient leads to; compute it from the outputs.")
    return found.reshape(())


def _loss_of(labels: torch.Tensor) -> str:
    if labels.is_floating_point() or labels.ndim == 2:
        return "binary"
    return "dense" if labels.ndim == 3 else "cross-entropy"


@dataclass(frozen=True)
class Objective:
    """What training minimises: (1 - share) times the labels' loss plus share times the teacher's.

    Attributes:
        endings: where the teacher's answers are matched.
        features: inner values that are matched too, weighted by `feature_weight`.
        temperature: by which class scores are softened.
        supervision: the labels' part, or None.
        share: the teacher's; 1 without labels, 0 where every ending is ignored.

    Raises:
        UsageError: every ending is ignored, and there are no labels.
    """

    endings: Sequence[Ending]
    features: Sequence[Feature] = ()
    feature_weight: float = 1.0
    temperature: float = 4.0
    supervision: Supervision | None = None
    share: float = 1.0
    matched: Sequence[Ending] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "matched", [ending for ending in self.endings if ending.kind != "ignore"])
        if not self.matched and self.supervision is None:
            raise UsageError("--outputs says ignore of every output, so there is nothing to learn; leave one to match.")
        if not self.matched:
            object.__setattr__(self, "share", 0.0)

    @property
    def names(self) -> list[str]:
        """The values that both networks have to give."""
        return [ending.name for ending in self.endings] + [feature.name for feature in self.features]

    @property
    def learnt(self) -> list[str]:
        """Those of them that the loss reads."""
        names = [self.supervision.ending.name] if self.supervision is not None else []
        if self.supervision is not None and self.supervision.function is not None:
            names = [ending.name for ending in self.endings]
        if self.share > 0:
            names += [ending.name for ending in self.matched] + [feature.name for feature in self.features]
        return list(dict.fromkeys(names))

    @property
    def asks(self) -> bool:
        """Does the loss read the teacher's answers?"""
        return self.share > 0

    def loss(self, got: Tensors, wanted: Tensors, labels: torch.Tensor | None) -> torch.Tensor:
        """A scalar to minimise, for one batch; `wanted` is only read where the teacher is asked."""
        terms = []
        if self.share > 0:
            terms.append(self.share * self._taught(got, wanted))
        if self.supervision is not None and labels is not None:
            terms.append((1 - self.share) * self.supervision.loss(got, labels))
        return torch.stack(terms).sum()

    def _taught(self, got: Tensors, wanted: Tensors) -> torch.Tensor:
        answers = [
            ending.divergence(wanted[ending.name], got[ending.name], self.temperature) for ending in self.matched
        ]
        inner = [missed_share(feature.wanted(wanted[feature.name]), got[feature.name]) for feature in self.features]
        total = torch.stack(answers).mean()
        return total + self.feature_weight * torch.stack(inner).mean() if inner else total

    def score(self, got: Tensors, wanted: Tensors, labels: torch.Tensor | None) -> torch.Tensor:
        """How wrong a network is on one batch [2]: mistakes first, then the plain loss, which tells equals apart."""
        if self.supervision is None or labels is None:
            taught = [ending.divergence(wanted[ending.name], got[ending.name], 1.0) for ending in self.matched]
            return torch.stack(taught).mean().repeat(2)
        return torch.stack([self.supervision.mistakes(got, labels), self.supervision.loss(got, labels)])

    @property
    def measure(self) -> str:
        """What the first number of `score` is."""
        if self.supervision is None:
            return "divergence"
        return {"cross-entropy": "top-1 error", "dense": "pixel error"}.get(self.supervision.kind, "loss")
