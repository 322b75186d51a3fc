"""Does every command that was carried out keep its one field report, whoever is killed when?

Runs that grow follow one another in a whole live system, while the training process and the
supervisor are killed by turns, at random instants. Each run must end as if nobody had killed it,
and the coach's store must hold each of its field reports once.
"""

from functools import partial

from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    shown,
)
from esper_async.study.bench.drills_apart import broken, drilled

AMISS = "lost, repeated or otherwise than undisturbed"
_KILLS = {Effort.SHORT: 4, Effort.FULL: 40}
_SEED = 20261128


def measure(effort: Effort) -> list[Row]:
    """Kill, and read what came of the runs."""
    told = drilled("--kills", str(_KILLS[effort]), "--seed", str(_SEED))
    lost = told["lost"]
    whom = ", ".join(f"{name} {count} times" for name, count in told["kills"].items())
    return [
        judged(
            AMISS, float(len(lost)), "", Bar("at most", 0.0),
            note="; ".join(lost) or f"{told['reports']} field reports of {told['runs']} runs",
        ),
        shown("SIGKILLs", float(sum(told["kills"].values())), "", note=whom),
    ]  # fmt: skip


# -- mutants -------------------------------------------------------------------------------------

_THROWN_AWAY = """
if "up" in sys.orig_argv:
    from esper_async.simic.service import SimicService
    async def _forget(self, *_):
        return None
    SimicService._take = _forget
"""

BENCHMARK = Benchmark(
    name="report-kills",
    question="does each command keep its one field report while processes are killed?",
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "reports thrown away",
            "the coach acknowledges what it is told and forgets it",
            partial(broken, _THROWN_AWAY),
            fails=(AMISS,),
        ),
    ),
)
