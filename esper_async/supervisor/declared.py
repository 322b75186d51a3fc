"""The services as data: what each stands on, whether the system is useless without it, how long
it may take. The only place that says so.
"""

from dataclasses import dataclass

_LISTENER = ("http",)
"""Whatever comes up or goes down is looked at over HTTP: it starts first and stops last."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """One service.

    `needs` must be ready before it starts and while it runs: it goes down and up with them. Those
    in `after` must have been ready once, and stop after it; it runs on while they are away. An
    `essential` one brings the supervisor down when it is declared failed. Its seconds to start, and
    to end once cancelled, are those of the settings where there are none.
    """

    name: str
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = _LISTENER
    essential: bool = False
    start_timeout_s: float | None = None
    stop_timeout_s: float | None = None


SERVICES = (
    Declaration("http", after=(), essential=True, start_timeout_s=10.0),
    Declaration("oona", essential=True),
    Declaration("karn", needs=("oona",)),
    Declaration("urza", needs=("oona",)),
    Declaration("tezzeret", needs=("oona", "urza")),
    Declaration("tolaria", after=("http", "oona"), essential=True),  # trains on without a bus
    Declaration("kasmina", needs=("oona", "tolaria")),
    Declaration("tamiyo", needs=("oona",)),
    Declaration("simic", needs=("oona",)),
    Declaration("nissa", needs=("http",), after=(), essential=True),
)
"""In the order in which a reader would list them."""
