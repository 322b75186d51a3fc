"""What a learner tells of its training, and where a supervisor that runs beside it shows that.

A learner is a process of its own, which needs no supervisor: it leaves the figures of its last pass
in the state directory. The coach's service looks there, and into the registry for what came of what
was learned.
"""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import structlog
from anyio import to_thread

from esper_async.runtime.clock import Clock
from esper_async.runtime.files import write_atomically
from esper_async.runtime.metrics import Registry
from esper_async.simic.registry import PolicyRegistry
from esper_async.tamiyo.errors import PolicyFileError

TRAINING = {
    "simic.training.loss": "Loss of a learner's last pass, by its method.",
    "simic.training.policy_loss": "The policy's part of that loss.",
    "simic.training.value_loss": "The value estimate's part of that loss.",
    "simic.training.entropy": "Entropy of the policy that learns, nats.",
    "simic.training.kl": "How far it has moved from the policy that decided, nats.",
}
VALIDATION_RESULT = "simic.validation.result"
STALE_S = 900.0
"""Figures of a learner that has said nothing for so long are no news."""
_LOOK_EVERY_S = 5.0
_RESULTS = {"published": "passed", "refused": "failed", "judged again": "failed"}
_LOG = structlog.get_logger(__name__)


class LearningMetrics:
    """The metrics of learning in a process's registry."""

    def __init__(self, registry: Registry) -> None:
        self.training = {
            name: registry.gauge(name, text, ["method"]) for name, text in TRAINING.items()
        }
        self.validations = registry.counter(
            VALIDATION_RESULT, "Policies that were validated, by what came of it.", ["result"]
        )


def tell_pass(state_dir: Path, method: str, at: float, figures: Mapping[str, float]) -> None:
    """Leave the figures of a pass where a supervisor finds them; a full disk is no matter.

    Args:
        state_dir: in whose experience the learner reads.
        method: of the learner.
        at: Unix time in seconds.
        figures: by the last part of their names in `TRAINING`.
    """
    told = {"method": method, "at": at, "figures": dict(figures)}
    with suppress(OSError):
        write_atomically(_path(state_dir), json.dumps(told).encode())


class Learning:
    """Keeps the metrics of learning current. `look` blocks and is for one thread at a time."""

    def __init__(
        self, state_dir: Path, policies: PolicyRegistry | None, *, registry: Registry, clock: Clock
    ) -> None:
        self._path = _path(state_dir)
        self._policies = policies
        self._clock = clock
        self._metrics = LearningMetrics(registry)
        self._shown: tuple[str, float] | None = None
        self._counted: set[tuple[float, str]] = set()

    async def follow(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await to_thread.run_sync(self.look)
            await self._clock.sleep(_LOOK_EVERY_S)

    def look(self) -> None:
        """Look once at what a learner has left, and at what was validated."""
        try:
            told = json.loads(self._path.read_bytes())
            method, at = str(told["method"])[:40], float(told["at"])
            figures = {name: float(told["figures"][name.rpartition(".")[2]]) for name in TRAINING}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            _LOG.debug("learning_not_read", reason=str(error))
        else:
            self._show(method, at, figures)
        with suppress(PolicyFileError, OSError):  # whoever uses the registry says so
            self._count()

    def _show(self, method: str, at: float, figures: Mapping[str, float]) -> None:
        if self._clock.time() - at > STALE_S:
            self._end_series()
            return
        if self._shown == (method, at):
            return
        self._end_series()
        self._shown = method, at
        for name, value in figures.items():
            if math.isfinite(value):
                self._metrics.training[name].set(value, method=method)

    def _end_series(self) -> None:
        if self._shown is not None:
            for metric in self._metrics.training.values():
                metric.forget(method=self._shown[0])
        self._shown = None

    def _count(self) -> None:
        if self._policies is None:
            return
        for event in self._policies.book().history:
            result = _RESULTS.get(event.what)
            if result is not None and (event.at, event.id) not in self._counted:
                self._counted.add((event.at, event.id))
                self._metrics.validations.add(result=result)


def _path(state_dir: Path) -> Path:
    return state_dir / "simic" / "learning.json"
