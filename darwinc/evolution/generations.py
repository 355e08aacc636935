"""The life of a population: offspring are synthesised, raised by a crew, judged; the fittest survive and are parents.

Everything that is drawn follows from the seed, the generation and the number of the offspring, and every result from
its genome and its parents: the lineage is the same with one worker or many, and where it was stopped and resumed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from darwinc.channels import Channels
from darwinc.console import Stage
from darwinc.cost import Price
from darwinc.errors import Unreachable
from darwinc.evolution.appraisal import Appraisal
from darwinc.evolution.crew import Crew
from darwinc.evolution.environment import TARGETS, Environment, environment
from darwinc.evolution.genome import Genome
from darwinc.evolution.lineage import Lineage
from darwinc.evolution.mating import Parent
from darwinc.evolution.resources import costs_of
from darwinc.evolution.synthesis import Offspring, one_shot, random_cut, synthesise
from darwinc.evolution.tasks import APPRAISAL, GENOME, MODEL, Habitat, Raised, Rearing, Task, files_of_network, needs_of
from darwinc.evolution.wiring import Wiring
from darwinc.evolution_schema import Ending, Generation, Individual
from darwinc.searching.latency import TimeModel
from darwinc.selection import SHORTFALL, Limits

ONE_SHOT, RANDOM, SCRATCH = "one-shot", "random", "scratch"
"""The controls."""


@dataclass(frozen=True, eq=False)
class World:
    """What doesn't change in a run.

    Attributes:
        prices: of every resource that can be limited, by resource, with everybody alive.
        target: a kind of target, and how much of its resource (in the units of its price) it allows.
        first: the ancestor's row of the report.
        strengths: the ancestor's.
        foreseen: the model of its latency, where there is one.
    """

    habitat: Habitat
    channels: Channels
    limits: Limits
    prices: dict[str, Price]
    wiring: Wiring
    target: str
    goal: float
    first: Individual
    strengths: Appraisal
    foreseen: TimeModel | None = None

    @property
    def ancestor(self) -> Genome:
        """Everybody lives."""
        return Genome(self.channels.nobody())

    def costs(self, genomes: Sequence[Genome]) -> list[dict[str, float]]:
        """What networks cost, by resource."""
        return costs_of(genomes, self.channels, self.prices, self.wiring)

    def milliseconds(self, genome: Genome) -> float | None:
        """What a run is foreseen to take."""
        return None if self.foreseen is None else self.foreseen.predict(genome.widths(self.channels.groups))


@dataclass(frozen=True, eq=False)
class Evolved:
    """The outcome: the fittest network that meets the target, and the report's rows."""

    winner: Individual
    generations: list[Generation]
    controls: list[Individual]
    ended: Ending


class Population:
    """Raises generation after generation in a lineage, with a crew.

    Attributes:
        ended: why evolution ended; once it has.
        warnings: what the user should know.
    """

    def __init__(self, world: World, rearing: Rearing, lineage: Lineage, crew: Crew, stage: Stage) -> None:
        self.world, self.rearing, self.lineage, self.crew, self.stage = world, rearing, lineage, crew, stage
        self.options = world.habitat.options
        self.known = {world.ancestor.digest}
        self.pool = [world.first]
        self.generations: list[Generation] = []
        self.ended: Ending = "generations"
        self._genomes = {world.first.id: world.ancestor}
        self._noted = {generation.generation: generation for generation in lineage.generations()}
        self._best: Individual | None = None
        self.warnings: list[str] = []
        self._budgets = {world.first.id: 0}
        """How many trainings are in each network's weights, its parents' among them."""
        self._start = time.monotonic()

    def run(self) -> Evolved | None:
        """Evolve until an end; None where no survivor meets the target by then."""
        for number in range(1, self.options.generations + 1):
            if self.options.hours is not None and time.monotonic() - self._start > 3600 * self.options.hours:
                self.ended = "budget"
                break
            ended = self._next(number)
            if ended is not None:
                self.ended = ended
                break
        if self._best is None:
            return None
        controls = self._controls(self._best) if self.options.controls else []
        return Evolved(self._best, self.generations, controls, self.ended)

    def _next(self, number: int) -> Ending | None:
        """Another generation, as it was where the lineage has it whole; says why it is the last one, if it is."""
        try:
            alive = self._again(number) if number in self._noted else self._generation(number)
        except Unreachable:
            if self._best is None:
                raise
            return "exhausted"
        for each in filter(self.meets, self.pool):
            # By what they are worth at the target, whatever their generation was allowed.
            each = self._fit(each, {})
            if self._best is None or (each.fitness or 0.0) > (self._best.fitness or 0.0):
                self._best = each
        if not alive:
            return "collapse"
        return "target" if self.options.environment and self._best is not None else None

    def meets(self, individual: Individual) -> bool:
        """Does a network meet the target? A size is a limit, a share is met to within a little of what may stay."""
        return self.cost(individual)[TARGETS[self.world.target]] <= self.world.goal * (1 + self._tolerance)

    @property
    def _tolerance(self) -> float:
        return 0.0 if self.world.target == "bytes" else SHORTFALL

    def cost(self, individual: Individual) -> dict[str, float]:
        """What a network costs, by resource."""
        return self.world.costs([self.genome(individual)])[0]

    def genome(self, individual: Individual) -> Genome:
        """Who lives in it."""
        if individual.id not in self._genomes:
            self._genomes[individual.id] = Genome.from_bytes(self.lineage.read(individual.id, GENOME))
        return self._genomes[individual.id]

    # A generation --------------------------------------------------------------------------------------------------

    def _generation(self, number: int) -> bool:
        """One generation; says whether anybody of it lives on."""
        parents = [self._parent(each) for each in self._appraised(self.pool)]
        trained = self.world.habitat.trains
        surroundings = environment(self.options, self.world.target, self.world.goal, number, gradual=trained)
        costs = self.world.costs([self.world.ancestor, *(parent.genome for parent in parents)])
        limits = surroundings.limits(costs[0], costs[1:])
        tasks = [self._synthesised(number, index, parents, surroundings) for index in range(self.options.population)]
        offspring = [self._fit(each, limits) for each in self._raised(tasks, number)]
        alive = [each for each in offspring if not each.collapsed]
        elders = [self._fit(each, limits) for each in self.pool if self._fits(each, limits)]
        ranked = sorted([*alive, *elders], key=lambda each: (-(each.fitness or 0.0), each.id))
        if not alive:
            ranked = self.pool
        self.pool = ranked[: self.options.survivors]
        staying = {each.id for each in self.pool}
        offspring = [each.model_copy(update={"survived": each.id in staying and bool(alive)}) for each in offspring]
        best = self.pool[0]
        generation = Generation(
            generation=number,
            parents=[parent.id for parent in parents],
            offspring=offspring,
            survivor=best.id,
            survivors=[each.id for each in self.pool],
            environment=limits,
            fitness=best.fitness,
            parameters=best.parameters,
            synapses=best.synapses,
            kernels=best.kernels,
            quality=best.quality,
        )
        self.lineage.note(generation)
        self.generations.append(generation)
        return bool(alive)

    def _again(self, number: int) -> bool:
        """A generation of the lineage; raised again only where a survivor's files are damaged."""
        told = self._noted[number]
        survivors = [each for name in told.survivors if (each := self.lineage.known(name)) is not None]
        if len(survivors) < len(told.survivors):
            return self._generation(number)
        for each in told.offspring:
            self.known.add(each.genome)
            own = each.parents if self.world.habitat.trains else ()
            self._budgets[each.id] = 1 + max((self._budgets[parent] for parent in own), default=0)
        offspring = [self._fit(each, told.environment) for each in told.offspring]
        self.pool = [self._fit(each, told.environment) for each in survivors]
        self.generations.append(told.model_copy(update={"offspring": offspring}))
        return not all(each.collapsed for each in offspring)

    def _parent(self, individual: Individual) -> Parent:
        strengths = self.world.strengths
        if self._is_trained(individual):
            strengths = Appraisal.from_bytes(self.lineage.read(individual.id, APPRAISAL))
        return Parent(individual.id, self.genome(individual), strengths, individual.fitness or individual.quality or 0)

    def _is_trained(self, individual: Individual) -> bool:
        """Has a network weights of its own? Without training, everybody's are the ancestor's, and so are strengths."""
        return self.world.habitat.trains and individual.kind != "ancestor"

    def _appraised(self, pool: Sequence[Individual]) -> Sequence[Individual]:
        """The pool, its strengths known."""
        missing = [each.id for each in pool if self._is_trained(each) and not self.lineage.has(each.id, APPRAISAL)]
        files = {key: self.lineage.path(*key.split("/")) for name in missing for key in files_of_network(name)}
        done = self.crew.each(self.rearing.appraise, self.world.habitat, missing, files, files_of_network)
        for index, strengths in done:
            self.lineage.attach(missing[index], APPRAISAL, strengths)
        return pool

    def _synthesised(self, number: int, index: int, parents: Sequence[Parent], surroundings: Environment) -> Task:
        """One offspring: who its parents are, and who lives in it."""
        world = self.world
        rng = np.random.default_rng((world.habitat.seed, number, index))
        child = synthesise(
            parents,
            world.channels,
            world.prices,
            world.limits,
            surroundings,
            self.options,
            world.wiring,
            rng,
            self.known,
            revive=not world.habitat.trains,
            ancestor=world.strengths,
        )
        self.known.add(child.genome.digest)
        return self._task(f"g{number:03d}-{index:03d}-{child.genome.digest[:10]}", number, child)

    def _task(self, name: str, number: int, child: Offspring) -> Task:
        self._genomes[name] = child.genome
        own = tuple(each for each in child.parents if each != self.world.first.id) if self.world.habitat.trains else ()
        self._budgets[name] = 1 + max((self._budgets[parent] for parent in own), default=0)
        return Task(name, number, child.genome, tuple(child.parents), tuple(child.shares), own)

    def _raised(self, tasks: Sequence[Task], number: int | None = None) -> list[Individual]:
        """The networks of some tasks, in their order; those that the lineage knows are not raised again.

        `number` is that of their generation; controls have none.
        """
        found = {task.id: record for task in tasks if (record := self.lineage.known(task.id)) is not None}
        missing = [task for task in tasks if task.id not in found]
        self._tell(number, len(found), len(tasks))
        for raised, task in self._brought_up(missing):
            found[task.id] = self.lineage.add(
                self._described(raised.individual, task), {MODEL: raised.model, GENOME: task.genome.to_bytes()}
            )
            self._tell(number, len(found), len(tasks))
        return [found[task.id] for task in tasks]

    def _brought_up(self, tasks: Sequence[Task]) -> Iterator[tuple[Raised, Task]]:
        files = {key: self.lineage.path(*key.split("/")) for task in tasks for key in task.needs}
        for index, raised in self.crew.each(self.rearing.raise_, self.world.habitat, tasks, files, needs_of):
            yield raised, tasks[index]

    def _described(self, individual: Individual, task: Task) -> Individual:
        """What only the driver knows of a network."""
        units = np.concatenate([group.units for group in self.world.channels.groups])
        parents = [self._genomes[name] for name in task.parents]
        collapsed = (individual.quality or 0.0) < self.options.collapse * (self.world.first.quality or 0.0)
        return individual.model_copy(
            update={
                "distance": [task.genome.distance(parent, units) for parent in parents],
                "latency_ms": self.world.milliseconds(task.genome),
                "collapsed": collapsed,
            }
        )

    def _fit(self, individual: Individual, limits: dict[str, float]) -> Individual:
        """A network with its fitness in an environment: quality, and what halves the cost is worth the price."""
        resource = TARGETS[self.world.target]
        cost, most = self.cost(individual)[resource], limits.get(resource, self.world.goal)
        spared = math.log2(max(most, 1.0) / max(cost, 1.0))
        return individual.model_copy(
            update={"fitness": (individual.quality or 0.0) + self.options.price * max(spared, 0.0)}
        )

    def _fits(self, individual: Individual, limits: dict[str, float]) -> bool:
        """May a network of an earlier generation stay in this environment?"""
        cost = self.cost(individual)
        within = all(cost[name] <= most * (1 + self._tolerance) for name, most in limits.items())
        return within and individual.kind != "ancestor"

    def _tell(self, number: int | None, done: int, of: int) -> None:
        best, most = self.pool[0], self.options.generations
        known = best.quality is not None and best.kind != "ancestor"
        said = f", best so far {100 * (best.quality or 0.0):.1f} %" if known else ""
        self.stage.at(1.0 if number is None else (number - 1 + done / of) / most)
        what = "control" if number is None else f"generation {number} of {most}, offspring"
        self.stage.say(f"{what} {done} of {of}{said}")

    # Controls ------------------------------------------------------------------------------------------------------

    def _controls(self, winner: Individual) -> list[Individual]:
        """Networks of the winner's budget that no evolution made, with the training of its whole line.

        Where an elder was a parent, a line has had less training than it has generations.
        """
        world, times = self.world, max(self._budgets[winner.id], 1)
        limits = {name: self.cost(winner)[name] for name in self._limited()}
        rng = np.random.default_rng((world.habitat.seed, 0, 1))
        shared = (world.channels, world.prices, world.limits, limits, world.wiring, self.options.heredity)
        strict, genomes = world.target == "bytes", dict[str, Genome]()
        for name in (ONE_SHOT, RANDOM):
            try:
                genomes[name] = (
                    one_shot(world.strengths, *shared, strict=strict)
                    if name == ONE_SHOT
                    else random_cut(*shared, rng, strict=strict)
                )
            except Unreachable as error:
                self.warnings.append(f"The {name} control was left out: {error}")
        if world.habitat.trains:
            genomes[SCRATCH] = self.genome(winner)
        tasks = []
        for name, genome in genomes.items():
            # Another winner, of another run of this lineage, may ask for the same network with other training.
            id_ = f"control-{name}-{times}x-{genome.digest[:10]}"
            self._genomes[id_] = genome
            common = Task(id_, winner.generation, genome, kind="control", name=name, training=float(times))
            tasks.append(replace(common, reborn=name == SCRATCH))
        return [self._fit(each, limits) for each in self._raised(tasks)]

    def _limited(self) -> list[str]:
        """The resources of which a control gets what the winner has."""
        halves = {"clusters": set[str](), "synapses": {"synapses"}, "both": {"clusters", "synapses"}}[
            self.options.heredity
        ]
        return sorted({TARGETS[self.world.target], *halves} - ({"latency"} if self.world.foreseen is None else set()))
