"""The training loop: budget, schedule, averaging, selection, checkpoints. Devices are Lightning Fabric's."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric

from darwinc.calibrators.training.checkpoint import Checkpoint
from darwinc.calibrators.training.companion import Companion
from darwinc.calibrators.training.feeding import Feeding, TensorBatch
from darwinc.calibrators.training.judging import Judge, single
from darwinc.calibrators.training.objectives import Objective
from darwinc.calibrators.training.optimizing import make_optimizer, optimizer_tensors, restore_optimizer, set_rate
from darwinc.calibrators.training.progress import Outcome, Progress
from darwinc.calibrators.training.stopping import StopRequest
from darwinc.console import Stage
from darwinc.errors import InputError, Interrupted
from darwinc.torch_compile import Forward, compiled
from darwinc.torch_graph import TorchGraph
from darwinc.training import Training

EVALUATIONS = 20
"""How often the validation samples are asked while the budget lasts, at most."""
EVALUATION_SHARE = 0.15
"""What may be spent on that, in time, or in samples where the budget is counted in steps."""
STEPS_TO_AGREE = 16
"""How often the loss is checked, and several processes agree on whether to stop."""
CHECKPOINT_SECONDS = 30.0
SHOW_SECONDS = 0.5
LEAST_BATCH = 8
"""Below this many samples a batch's own statistics say too little, and the stored ones are used."""
COMPILED_STEPS, COMPILED_MINUTES = 500, 3.0
"""A budget of less doesn't pay for a compilation."""
LONGEST_AVERAGE = 0.999
DIVERGED, HIGH_CHECKS = 20.0, 2
"""A loss that is this many times above the first one at so many checks has diverged: one odd batch has not."""


class Trainer:
    """Trains a twin in place towards an objective.

    Args:
        student: the twin that is trained; `fused` and with `objective.names` kept.
        teacher: the original's twin, which is only asked.
        objective: what is minimised, and what selects.
        lessons: batches to train on.
        judges: batches that select.
        training: budget and options.
        fabric: devices and precision; launched.
        checkpoint: where the run is kept, or None.
        identity: what the run was asked to do; a checkpoint of another one is refused.
        companion: what else changes the weights, or None. States count as the best only once it has settled.
    """

    def __init__(
        self,
        student: TorchGraph,
        teacher: TorchGraph,
        objective: Objective,
        lessons: Feeding,
        judges: Feeding,
        training: Training,
        *,
        fabric: Fabric,
        stage: Stage,
        checkpoint: Path | None = None,
        identity: Mapping[str, Any] | None = None,
        companion: Companion | None = None,
    ) -> None:
        self.student, self.teacher, self.objective = student, teacher, objective
        self.lessons = lessons
        self.training, self.fabric, self.stage = training, fabric, stage
        self.path, self.identity, self.companion = checkpoint, dict(identity or {}), companion
        self.weights = student.weights()
        self.accumulate = max(1, min(training.batch, len(lessons.samples)) // lessons.batch)
        self.progress = Progress()
        self.optimizer = make_optimizer(self.weights, training)
        self.module, self.wrapped = fabric.setup(student, self.optimizer, move_to_device=False)
        self.average = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self.best = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self._start = time.monotonic()
        self._saved = self._shown = self._start
        self._total_steps = self._steps_allowed()
        self._last = torch.tensor(math.nan)
        self.judge = Judge(teacher, objective, judges, fabric)
        self._learn: Forward = lambda feed: cast(dict[str, torch.Tensor], self.module(feed, also=objective.names))
        self._ask: Forward = lambda feed: teacher(feed, also=objective.names)
        self.warnings: list[str] = []
        self.compiled = False

    def run(self) -> Outcome:
        """Train until the budget is used up; the student then holds its best state.

        Raises:
            Interrupted: the user or a signal stopped it; the checkpoint, if there is one, is up to date.
            InputError: the checkpoint is damaged, or of another run.
        """
        if self.training.resume and self.path is not None and self.path.exists():
            self._restore(self.path)
        else:
            self.progress.before = self.progress.best = self.judge.score(self.student)
        if not self.progress.ended:
            self._compile()
            self.progress.ended = self._loop()
            if self.companion is not None and not self.companion.settled:
                self._settle(self.companion)
        self._set(self.best)
        self.student.eval()
        done = self.progress
        done.seconds, self._start = self._elapsed(), time.monotonic()
        epochs = done.step * self.accumulate / max(1, self.lessons.steps_per_epoch)
        self._save()
        return Outcome(done.step, epochs, done.seconds, done.ended, done.before, done.best, done.history)

    def _compile(self) -> None:
        """Compile both networks, where that is asked for or pays."""
        asked = self.training.compile
        long = (self._total_steps or 0) >= COMPILED_STEPS or (self.training.allowed_minutes or 0) >= COMPILED_MINUTES
        pays = asked == "auto" and self.fabric.device.type == "cuda" and long
        if self.fabric.world_size > 1 or not (asked == "on" or pays):
            return
        self.stage.say("compiling")
        first, names = self.lessons[0], self.objective.names
        self.student.train(first.samples >= LEAST_BATCH)
        with self.fabric.autocast():
            forward, problem = compiled(self.student, first.feed, also=names)
            if problem is None:
                with torch.no_grad():
                    self._ask, problem = compiled(self.teacher, first.feed, also=names)
        if problem is None:
            self._learn, self.compiled = forward, True
        else:
            self.warnings.append(f"{problem}.")

    def _steps_allowed(self) -> int | None:
        limits = [] if self.training.steps is None else [self.training.steps]
        if self.training.epochs is not None:
            limits.append(max(1, round(self.training.epochs * self.lessons.steps_per_epoch / self.accumulate)))
        return min(limits) if limits else None

    def _share(self) -> float:
        """How much of the budget is used up, 0 to 1; by the first process's clock."""
        shares = [0.0]
        if self._total_steps is not None:
            shares.append(self.progress.step / self._total_steps)
        minutes = self.training.allowed_minutes
        if minutes is not None:
            shares.append(self._agreed(self._elapsed() / (60 * minutes)))
        return max(shares)

    def _elapsed(self) -> float:
        return self.progress.seconds + time.monotonic() - self._start

    def _loop(self) -> str:
        progress = self.progress
        feeds = self.lessons.batches(progress.step * self.accumulate)
        with StopRequest() as request, closing(feeds):
            share = self._share()
            while share < 1:
                set_rate(self.optimizer, share)
                self._step(list(islice(feeds, self.accumulate)))
                progress.step += 1
                self._blend()
                self._accompany(share)
                self._show(share)
                if self._has_diverged():
                    return "divergence"
                share = self._share()
                if self._is_due(share):
                    self._select()
                if self._is_stopped(request):
                    self._stop()
                if progress.ended:
                    return progress.ended
                if time.monotonic() - self._saved > CHECKPOINT_SECONDS:
                    self._save()
            if self.companion is not None and not self.companion.settled:
                self._settle(self.companion)
            if not progress.history or progress.history[-1][0] != progress.step:
                self._select()
            if bool(self._agreed(request.asked)):
                self._stop()
        return "budget"

    def _is_stopped(self, request: StopRequest) -> bool:
        """Was the first process asked to stop? The others are told now and then, so that all stop at the same step."""
        if self.fabric.world_size > 1:
            return self.progress.step % STEPS_TO_AGREE == 0 and bool(self._agreed(request.asked))
        return request.asked

    def _is_due(self, share: float) -> bool:
        """Is it time to ask the validation samples again?"""
        progress = self.progress
        if self.training.allowed_minutes is not None:
            affordable = progress.asking <= EVALUATION_SHARE * self._elapsed()
            return share * EVALUATIONS >= progress.evaluated + 1 and bool(self._agreed(affordable))
        seen = (self._total_steps or 0) * self.accumulate * self.lessons.batch
        most = max(1, min(EVALUATIONS, int(EVALUATION_SHARE * seen / max(1, len(self.judge.samples.samples)))))
        return share * most >= progress.evaluated + 1

    def _agreed(self, value: float) -> float:
        """What the first process says, as clocks differ."""
        return float(self.fabric.broadcast(value)) if self.fabric.world_size > 1 else value

    def _step(self, portions: Sequence[TensorBatch]) -> None:
        """One step of the optimiser, over several feeds where one is smaller than the batch."""
        self.student.train(portions[0].samples >= LEAST_BATCH)
        total = torch.zeros((), device=self.fabric.device)
        for place, portion in enumerate(portions):
            wanted: dict[str, torch.Tensor] = {}
            if self.objective.asks:
                with torch.no_grad(), self.fabric.autocast():
                    wanted = self._ask(portion.feed)
            with self.fabric.no_backward_sync(self.module, enabled=place + 1 < len(portions)), self.fabric.autocast():
                got = single(self._learn(portion.feed))
                loss = self.objective.loss(got, wanted, portion.labels) / len(portions)
                self.fabric.backward(loss)
            total += loss.detach()
        if self.companion is not None:
            self.companion.observe(self.weights)
        self.wrapped.step()
        self.wrapped.zero_grad()
        # Read by _shows, now and then: reading it at once would make the device wait.
        self._last = total

    def _blend(self) -> None:
        """Move the running average of the weights and statistics; early states are soon forgotten."""
        step = self.progress.step
        share = 1 - min(LONGEST_AVERAGE, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.weights.values()), share)

    def _accompany(self, share: float) -> None:
        """Let the companion have its turn, `share` being how much of the budget is used up."""
        if self.companion is None:
            return
        late = not self.companion.settled and bool(self._agreed(share >= self.companion.until))
        if not late:
            self.companion.advance(self.progress.step, share, self.weights, self.average)
        if not self.companion.settled and (late or self.companion.done):
            self._settle(self.companion)

    def _settle(self, companion: Companion) -> None:
        """The companion changes nothing more, and what selects starts anew, from the better of two states.

        Those are the weights as they are, and those that training began with; both without what is gone.
        """
        companion.settle(self.progress.step, self.weights, self.average)
        with torch.no_grad():
            raised = {name: weight.detach().clone() for name, weight in self.weights.items()}
            score = self.judge.score(self.student)
            self._set(self.best)
            companion.hold(self.weights)
            self.progress.began_anew = self.judge.score(self.student) < score
            if self.progress.began_anew:
                self.optimizer.state.clear()
            else:
                self._set(raised)
            for name, weight in self.weights.items():
                self.average[name].copy_(weight)
        self.progress.best, self.progress.stale = (math.inf, math.inf), 0
        self.progress.first_loss, self.progress.high = math.nan, 0
        self._select()

    @torch.no_grad()
    def _set(self, state: Mapping[str, torch.Tensor]) -> None:
        """Let the student's weights be these."""
        for name, weight in self.weights.items():
            weight.copy_(state[name])

    def _show(self, share: float) -> None:
        """Say how it goes, about twice a second."""
        now, progress = time.monotonic(), self.progress
        if now - self._shown < SHOW_SECONDS:
            return
        self._shown = now
        self.stage.at(min(1.0, share))
        self.stage.say(
            f"step {progress.step}, loss {float(self._last):.3g}, "
            f"{self.objective.measure} {progress.before[0]:.3g}, best {progress.best[0]:.3g}"
        )

    def _has_diverged(self) -> bool:
        """Is the loss no number, or far above the first one again and again?

        Asked by steps, not by the clock, so that a run goes the same way twice. Of several processes
        the first one says.
        """
        progress = self.progress
        if math.isnan(progress.first_loss):
            progress.first_loss = float(self._last)
        if progress.step > 1 and progress.step % STEPS_TO_AGREE:
            return False
        loss = self._agreed(float(self._last))
        if self.companion is not None and not self.companion.settled:
            # What channels cost that die is no divergence.
            return not math.isfinite(loss)
        progress.high = progress.high + 1 if loss > DIVERGED * max(progress.first_loss, 1e-3) else 0
        return not math.isfinite(loss) or progress.high >= HIGH_CHECKS

    def _select(self) -> None:
        """Score the averaged network; keep it where it is the best so far. Training ends where patience is used up."""
        progress = self.progress
        start = time.monotonic()
        with self._averaged():
            score = self.judge.score(self.student)
        progress.asking += time.monotonic() - start
        progress.evaluated += 1
        progress.history.append([progress.step, float(self._last), score[0]])
        if self.companion is not None and not self.companion.settled:
            self._save()
            return
        if score < progress.best:
            progress.best, progress.stale = score, 0
            for name, tensor in self.average.items():
                self.best[name].copy_(tensor)
        elif progress.best < progress.before:
            # Large steps at first may cost more than they win; that alone is no reason to stop.
            progress.stale += 1
        if progress.stale >= self.training.patience:
            progress.ended = "patience"
        self._save()

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The student as its running average, for a while."""
        with torch.no_grad():
            if self.fabric.world_size > 1:
                for tensor in self.average.values():
                    tensor.copy_(self.judge.reduced(tensor, "mean"))
            kept = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self._set(self.average)
        yield
        self._set(kept)

    def _save(self) -> None:
        self._saved = time.monotonic()
        if self.path is None or self.fabric.global_rank != 0:
            return
        notes = asdict(self.progress) | {"seconds": self._elapsed(), "identity": self.identity}
        population: dict[str, torch.Tensor] = {}
        if self.companion is not None:
            population, notes["companion"] = self.companion.state()
        weights = {name: weight.detach() for name, weight in self.weights.items()}
        state = optimizer_tensors(self.optimizer, self.weights)
        Checkpoint(weights, self.average, self.best, state, population, notes).save(self.path)

    def _restore(self, path: Path) -> None:
        found = Checkpoint.load(path, self.fabric.device)
        if found.notes.pop("identity", None) != self.identity:
            raise InputError(
                f"The checkpoint {path} is of a run with another model, data or options; give the same command with "
                "--resume, or another --run-dir."
            )
        shapes = {name: tuple(weight.shape) for name, weight in self.weights.items()}
        if {name: tuple(tensor.shape) for name, tensor in found.weights.items()} != shapes:
            raise InputError(f"The checkpoint {path} is of a network of another shape; give another --run-dir.")
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(found.weights[name])
                self.average[name].copy_(found.average[name])
                self.best[name].copy_(found.best[name])
        restore_optimizer(self.optimizer, self.weights, found.optimizer)
        told = found.notes.pop("companion", None)
        if self.companion is not None:
            self.companion.restore(found.population, told)
        notes = found.notes | {key: tuple(found.notes[key]) for key in ("before", "best")}
        self.progress = Progress(**notes)
        self._start = time.monotonic()

    def _stop(self) -> None:
        self._save()
        how = (
            "with --run-dir it could be resumed"
            if self.path is None
            else f"give the same command with --resume to go on from {self.path}"
        )
        raise Interrupted(f"Stopped at step {self.progress.step} and no model written; {how}.")
