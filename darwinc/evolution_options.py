"""How generations of networks evolve. The options alone; nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from darwinc.errors import UsageError

HEREDITIES = ("clusters", "synapses", "both")
STRENGTHS = ("darwin", "magnitude")
MATINGS = ("sum", "product", "quorum")
MATES = ("fitness", "uniform", "distant")
RESOURCES = ("clusters", "synapses", "kernels", "parameters", "macs", "bytes", "latency")
LOCAL = "auto"


@dataclass(frozen=True)
class Evolution:
    """Options of `--strategy evolve`; the defaults are the command line's.

    Attributes:
        generations: how many, at most.
        population: offspring of each generation.
        parents: of each offspring; 0 draws the ancestor's widths at random, which is a control.
        survivors: how many networks the next generation's parents are chosen from.
        heredity: what is passed on and drawn: whole clusters (channels, really removed), synapses within kept channels
            (zeros, which make nothing faster), or both.
        strength: what survival goes by: `darwin`, the predicted loss, or `magnitude`, |w| over its layer's largest.
        mating: how strengths of several parents come together: their weighted sum, their product (what lives in all of
            them), or the sum where a quorum of them has the cluster.
        quorum: how many parents must have a cluster.
        mates: how parents are chosen from the survivors: by fitness, all alike, or by fitness and distance.
        favour: do clusters count for more that their parent does well with, output by output?
        environment: what may be kept, as RESOURCE=SHARE of the parents' largest, several with commas, changing from
            generation to generation with colons (`clusters=0.7,synapses=0.5:0.6:0.7`, the last one stays); empty for
            the target, neared in equal ratios over two thirds of the generations where offspring are trained, from the
            first generation on where they aren't, and then kept.
        temperature: of the draw; 0 is the deterministic cut. A cluster with strength s lives with probability
            min(1, exp((s - c) / temperature)).
        drift: the deviation by which strengths of a whole group shift in an offspring: it is what changes widths.
        price: what quality a halving of the cost is worth, as a fraction.
        collapse: an offspring below this share of the ancestor's quality has collapsed; evolution ends when all have.
        hours: for all of it; None for no limit.
        controls: raise the controls, too.
        workers: `auto`, a number of processes, or ray://... (`auto`: one for each core or GPU).
        offspring_threads: of each worker. The lineage depends on it in its last digits, on the number of workers not at
            all.
        from_generation: of the run in the run's folder, the generation to go on from; None for where it stopped.
    """

    generations: int = 8
    population: int = 6
    parents: int = 2
    survivors: int = 3
    heredity: str = "clusters"
    strength: str = "darwin"
    mating: str = "sum"
    quorum: int = 2
    mates: str = "fitness"
    favour: bool = False
    environment: str = ""
    temperature: float = 0.05
    drift: float = 0.05
    price: float = 0.01
    collapse: float = 0.5
    hours: float | None = None
    controls: bool = True
    workers: str = LOCAL
    offspring_threads: int = 1
    from_generation: int | None = None

    def judge(self) -> None:
        """Refuse what no model could make right.

        Raises:
            UsageError: a value that doesn't exist or doesn't go with another one.
        """
        for name, number, least in (
            ("generations", self.generations, 1),
            ("population", self.population, 1),
            ("parents", self.parents, 0),
            ("survivors", self.survivors, 1),
            ("quorum", self.quorum, 1),
            ("offspring-threads", self.offspring_threads, 1),
        ):
            if number < least:
                raise UsageError(f"--{name} was given as {number}; give {least} or more.")
        for name, word, choices in (
            ("heredity", self.heredity, HEREDITIES),
            ("strength", self.strength, STRENGTHS),
            ("mating", self.mating, MATINGS),
            ("mates", self.mates, MATES),
        ):
            if word not in choices:
                raise UsageError(f"There is no --{name} {word!r}; choose from {', '.join(choices)}.")
        for name, amount in (("temperature", self.temperature), ("drift", self.drift), ("price", self.price)):
            if not amount >= 0:
                raise UsageError(f"--{name} was given as {amount:g}; give 0 or more.")
        if not 0 <= self.collapse < 1:
            raise UsageError(f"--collapse was given as {self.collapse:g}; it is a share from 0 to below 1.")
        if self.hours is not None and not self.hours > 0:
            raise UsageError(f"--hours was given as {self.hours:g}; give more than 0.")
        if self.parents > self.survivors:
            raise UsageError(
                f"--parents {self.parents} can't be chosen from --survivors {self.survivors}; let more survive."
            )
        if self.mating == "quorum" and self.quorum > max(self.parents, 1):
            raise UsageError(f"--quorum {self.quorum} is more than --parents {self.parents}; nothing could live.")
        self._judge_workers()
        parse_environment(self.environment)

    def _judge_workers(self) -> None:
        number = self.workers.isdigit() and int(self.workers) > 0
        if not (self.workers == LOCAL or number or self.workers.startswith("ray://") or self.workers == "ray"):
            raise UsageError(f"--workers was given as {self.workers!r}; give auto, a number, ray, or ray://HOST:PORT.")

    def share(self, resource: str, generation: int) -> float | None:
        """What share of a resource the offspring of a generation (from 1) may keep of their parents'; None for all."""
        shares = parse_environment(self.environment).get(resource)
        return None if shares is None else shares[min(generation, len(shares)) - 1]


EVOLUTION = Evolution()
"""The defaults."""


def parse_environment(text: str) -> dict[str, list[float]]:
    """`clusters=0.7,synapses=0.5:0.6` as shares by resource, one for each generation.

    Raises:
        UsageError: a part that isn't RESOURCE=SHARE[:SHARE...].
    """
    found: dict[str, list[float]] = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        name, _, shares = part.partition("=")
        try:
            numbers = [float(share) for share in shares.split(":")]
        except ValueError:
            numbers = []
        if name not in RESOURCES or not numbers or not all(0 < number <= 1 for number in numbers):
            raise UsageError(
                f"--environment has {part!r}; write RESOURCE=SHARE, where RESOURCE is one of {', '.join(RESOURCES)} "
                "and SHARE is above 0 and at most 1, or several of them with colons."
            )
        found[name] = numbers
    return found
