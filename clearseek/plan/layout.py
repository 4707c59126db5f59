"""How the processes of a run share the work: which process computes which layers, experts and micro-batches.

Four ways of spreading a model, and no tensor parallelism (DeepSeek-V3 report, section 3.2):

* **data** (dp): copies of every stage, each with its own lanes of a step. Masters and optimiser state are dealt out
  among the copies (ZeRO-1).
* **expert** (ep): the routed experts of a layer are spread over `ep` neighbouring copies.
* **pipeline** (pp): consecutive layers lie on consecutive stages.
* **sharded** (fsdp): copies as with dp, and the weights are dealt out too (FSDP2); it stands alone.

Processes are numbered stage by stage, copies innermost: process ``stage * copies + copy``; the experts' part of a copy
is ``copy % ep``. So the processes that talk most (experts) are neighbours, on one machine where it has room for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isqrt, log2
from typing import Any, Literal, get_args

from clearseek.config import Recipe
from clearseek.errors import UserError

Schedule = Literal["1f1b", "zbv", "dualpipev"]
"""Order of a pipeline's forwards and backwards. The last two fold the pipeline into a V: a process has two stages."""
EXAMPLE = "dp=128,ep=64,pp=16"
"""A layout as text, for messages: DeepSeek-V3's."""
_SHOWN = 3  # other layouts that an error names


@dataclass(frozen=True, slots=True)
class ParallelLayout:
    """Degrees of parallelism."""

    dp: int = 1
    """Copies of the model, each with its share of a batch."""
    ep: int = 1
    """Copies that a layer's experts are spread over."""
    pp: int = 1
    """Pipeline stages."""
    fsdp: int = 1
    """Copies that share out the weights too."""
    schedule: Schedule = "1f1b"
    """How a pipeline is driven."""

    @property
    def copies(self) -> int:
        """Copies of each stage."""
        return self.dp * self.fsdp

    @property
    def devices(self) -> int:
        """Number of processes, each with a device of its own."""
        return self.copies * self.pp

    @property
    def folded(self) -> bool:
        """Whether the pipeline is a V, in which each process has two stages, one from each end."""
        return self.schedule != "1f1b"

    def __str__(self) -> str:
        if self.fsdp > 1 and (self.dp, self.ep, self.pp) == (1, 1, 1):
            return f"fsdp={self.fsdp}"
        text = f"dp={self.dp},ep={self.ep},pp={self.pp}"
        text += f",fsdp={self.fsdp}" * (self.fsdp > 1) + f",schedule={self.schedule}" * (self.schedule != "1f1b")
        return text

    def stage(self, rank: int) -> int:
        """Pipeline stage of a process (in a V the first of its two)."""
        return rank // self.copies

    def copy(self, rank: int) -> int:
        """Which copy of its stage a process is."""
        return rank % self.copies

    def expert_part(self, rank: int) -> int:
        """Which part of the experts a process holds."""
        return self.copy(rank) % self.ep

    def copies_of_stage(self, rank: int) -> list[int]:
        """Processes that hold the same stage as `rank`, itself among them, in the order of their lanes."""
        first = self.stage(rank) * self.copies
        return list(range(first, first + self.copies))

    def expert_group(self, rank: int) -> list[int]:
        """Processes of the stage that hold one copy of its experts between them, in the order of their parts."""
        first = self.copy(rank) // self.ep * self.ep + self.stage(rank) * self.copies
        return list(range(first, first + self.ep))

    def expert_copies(self, rank: int) -> list[int]:
        """Processes of the stage that hold the same part of the experts."""
        return [
            other for other in self.copies_of_stage(rank) if self.copy(other) % self.ep == self.copy(rank) % self.ep
        ]

    def pipeline(self, rank: int) -> list[int]:
        """Processes that run one copy of the whole model between them, in the order of their stages."""
        return list(range(self.copy(rank), self.devices, self.copies))


SINGLE = ParallelLayout()
"""One process."""


def parse_layout(text: str, processes: int | None = None, named: str = "--gpus") -> ParallelLayout:
    """Read ``dp=128,ep=64,pp=16``, ``fsdp=4`` or ``pp=4,schedule=zbv``.

    A degree left out is 1, but dp follows from the number of processes where that is known.

    Args:
        text: What the user wrote.
        processes: How many there are.
        named: Option or variable that says how many, for messages.
    """
    degrees: dict[str, int] = {}
    schedule: list[Schedule] = []
    for part in text.split(","):
        name, separator, value = (piece.strip() for piece in part.partition("="))
        if name not in ("dp", "ep", "pp", "fsdp", "schedule") or not separator:
            raise UserError(f"--layout {text}: write it as {EXAMPLE}, fsdp=8 or pp=4,schedule=zbv")
        if name in degrees or (name == "schedule" and schedule):
            raise UserError(f"--layout {text}: {name} appears twice")
        if name == "schedule":
            schedule += [each for each in get_args(Schedule) if each == value]
            if not schedule:
                raise UserError(f"--layout {text}: schedule is one of {', '.join(get_args(Schedule))}")
        elif not (value.isascii() and value.isdecimal() and 0 < int(value) <= 10**9):
            raise UserError(f"--layout {text}: {name} is a number from 1 up")
        else:
            degrees[name] = int(value)
    pp = degrees.get("pp", 1)
    if processes is not None and not degrees.keys() & {"dp", "fsdp"}:
        if processes % pp:
            raise UserError(f"--layout {text}: pp = {pp} does not divide {named} {processes}")
        degrees["dp"] = processes // pp
    layout = ParallelLayout(**degrees, schedule=schedule[0] if schedule else "1f1b")
    if processes is not None and layout.devices != processes:
        product = " x ".join(["dp"] * ("dp" in degrees) + ["fsdp"] * ("fsdp" in degrees) + ["pp"])
        raise UserError(
            f"--layout {text}: {product} = {layout.devices} processes, but {named} is {processes}: give "
            f"{layout.devices}, or another layout"
        )
    return layout


def decides_bits(layout: ParallelLayout, recipe: Recipe) -> dict[str, Any]:
    """What of a layout decides bits, for the header of a transcript: which lanes' experts are merged."""
    merged = layout.ep > 1 and recipe.train.expert_gradients == "merged"
    return {"ep": layout.ep, "dp": layout.dp} if merged else {}


def check_layout(layout: ParallelLayout, recipe: Recipe) -> None:
    """Raise UserError that names all that forbids a layout, and the nearest layouts that work."""
    wrong = conflicts(layout, recipe)
    if not wrong:
        return
    near = nearest_layouts(layout, recipe)
    cure = "use one process"
    if near:
        count = near[0].devices
        cure = f"on {count:,} process{'es' * (count != 1)} these work: {' or '.join(map(str, near))}"
    raise UserError(f"--layout {layout}: {'; '.join(wrong)}: {cure}")


def conflicts(layout: ParallelLayout, recipe: Recipe) -> list[str]:
    """All that forbids a layout, each as part of a sentence."""
    train, model, (dp, ep, pp, fsdp) = recipe.train, recipe.model, (layout.dp, layout.ep, layout.pp, layout.fsdp)
    experts, layers, lanes = model.n_routed_experts, model.num_hidden_layers, train.summed_lanes
    each = lanes // layout.copies
    length, depth = train.micro_batches // lanes, pp * (1 + layout.folded)
    least = {"1f1b": pp, "zbv": 1, "dualpipev": depth}[layout.schedule]  # what torch's schedules take
    unequal = dp > 1 and (lanes % dp or each & (each - 1))
    no_turns = fsdp > 1 and (lanes % fsdp or fsdp & (fsdp - 1))
    short = pp > 1 and length < least
    cure = _lanes_cure(recipe, layout, least if pp > 1 else 1) if unequal or no_turns or short else ""
    checks: tuple[tuple[Any, Any], ...] = (
        (fsdp > 1 and (dp, ep, pp) != (1, 1, 1), "fsdp stands alone, without dp, ep and pp"),
        (dp % ep and fsdp == 1, f"ep = {ep} does not divide dp = {dp}"),
        (experts % ep, f"ep = {ep} does not divide the {experts} routed experts"),
        (dp % ep == 0 and ep != dp and ep & (ep - 1) and recipe.train.expert_gradients == "exact",
         f'ep = {ep} is neither a power of two nor dp = {dp}, as train.expert_gradients = "exact" needs it'),
        (depth > layers, f"pp = {pp} is more than the {layers} layers" if not layout.folded else
         f"pp = {pp} with schedule = {layout.schedule} has {depth} stages, which are more than the {layers} layers"),
        (layout.folded and pp == 1, f"schedule = {layout.schedule} needs pp from 2 up"),
        (unequal, unequal and f"{_lanes(recipe)} is not dp = {dp} times 1, 2, 4, ...{cure}"),
        (no_turns, no_turns and (f"fsdp = {fsdp} is no power of two, or the order of its sums would depend on it"
         if fsdp & (fsdp - 1) else f"{_lanes(recipe)} is not fsdp = {fsdp} times a whole number{cure}")),
        (short, f"{layout.schedule} with pp = {pp} needs {least} micro-batches a lane, and a lane has {length} "
         f"({train.micro_batches} in a step, {_lanes(recipe)}){cure * (not unequal)}"),
        (pp > 1 and model.tie_word_embeddings, "pp does not go with model.tie_word_embeddings: the tensor would lie on "
         "two stages"),
        (max(ep, pp) > 1 and recipe.parent is not None, "ep and pp do not go with [parent]: they are for pre-training"),
        (recipe.lora is not None and max(ep, pp, fsdp) > 1, "[lora] goes with dp only"),
        (recipe.distil is not None and fsdp > 1, "[distil] goes with dp only"),
        (recipe.experts is not None and layout.devices > 1, "[experts] trains on one process"),
        (_writes(recipe) and layout.devices > 1, f"{_writes(recipe)} trains on one process: the model in training "
         "writes its own texts"),
    )  # fmt: skip
    return [message for broken, message in checks if broken]


def _writes(recipe: Recipe) -> str | None:
    """The setting by which the model in training writes what it is trained on, or None."""
    if recipe.grpo is not None:
        return "[grpo]"
    return 'distil.form = "on-policy"' if recipe.distil is not None and recipe.distil.form == "on-policy" else None


def _lanes(recipe: Recipe) -> str:
    """The setting of lanes."""
    return f"train.lanes = {recipe.train.summed_lanes}" + (" (left out)" if recipe.train.lanes is None else "")


def _lanes_cure(recipe: Recipe, layout: ParallelLayout, least: int) -> str:
    """Which number of lanes, if need be of smaller micro-batches, would fit a layout; the end of a sentence.

    Args:
        recipe: What is to be trained.
        layout: How.
        least: Micro-batches that a lane must have.
    """
    train = recipe.train
    for size in reversed(divisors(train.batch_size)):
        micro_batches = train.batch_size // size
        if micro_batches < train.micro_batches:
            continue
        for lanes in divisors(micro_batches):
            each, rest = divmod(lanes, layout.copies)
            even = layout.fsdp > 1 or each & (each - 1) == 0
            if not rest and even and micro_batches // lanes >= least:
                smaller = f"train.micro_batch_size = {size} and " if micro_batches > train.micro_batches else ""
                return f"; {smaller}train.lanes = {lanes} would do, with other bits"
    return f"; no number of lanes of train.batch_size = {train.batch_size} would do"


def layouts(recipe: Recipe, schedule: Schedule = "1f1b", sharded: bool = False) -> Iterator[ParallelLayout]:
    """Every layout with this schedule that works, the plainest first: few stages, then few ways of spreading experts.

    With `sharded`, the layouts of FSDP instead.
    """
    copies, model = divisors(recipe.train.summed_lanes), recipe.model
    if sharded:
        candidates = (ParallelLayout(fsdp=count) for count in copies)
    else:
        candidates = (
            ParallelLayout(dp, ep, pp, schedule=schedule if pp > 1 else "1f1b")
            for pp in range(1, model.num_hidden_layers + 1)
            for ep in divisors(model.n_routed_experts)
            for dp in copies
            if dp % ep == 0
        )
    return (layout for layout in candidates if not conflicts(layout, recipe))


def nearest_layouts(layout: ParallelLayout, recipe: Recipe) -> list[ParallelLayout]:
    """Up to three layouts that work and are most like one that does not: on as many processes, or the nearest number.

    None but one process works where this is empty.
    """
    staged = {each: None for schedule in get_args(Schedule) for each in layouts(recipe, schedule)}  # each once
    sharded = dict.fromkeys(layouts(recipe, sharded=True))
    first, second = (sharded, staged) if layout.fsdp > 1 else (staged, sharded)
    working = [each for each in first if each.devices > 1] or [each for each in second if each.devices > 1]
    count = min((each.devices for each in working), key=lambda n: abs(log2(n / layout.devices)), default=None)

    def distance(other: ParallelLayout) -> tuple[float, bool]:
        pairs = ((layout.dp, other.dp), (layout.ep, other.ep), (layout.pp, other.pp), (layout.fsdp, other.fsdp))
        return sum(abs(log2(one / two)) for one, two in pairs), other.schedule != layout.schedule

    best: dict[tuple[int, ...], ParallelLayout] = {}  # of the same degrees one schedule
    for each in sorted((each for each in working if each.devices == count), key=distance):
        best.setdefault((each.dp, each.ep, each.pp, each.fsdp), each)
    return list(best.values())[:_SHOWN]


def divisors(number: int) -> list[int]:
    """Divisors of a number, ascending."""
    small = [each for each in range(1, isqrt(number) + 1) if number % each == 0]
    return sorted({*small, *(number // each for each in small)})
