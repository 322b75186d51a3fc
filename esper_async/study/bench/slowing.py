"""Making a function slower, for mutants of what is timed."""

import pkgutil
import time
from contextlib import AbstractContextManager
from typing import Any

from esper_async.study.bench.benchmark import replaced


def burning_cpu(target: str, seconds: float) -> AbstractContextManager[None]:
    """Have `target` ("package.module.Class.method") compute for `seconds` before its own work."""
    whole = pkgutil.resolve_name(target)

    def slowed(*given: Any, **named: Any) -> Any:
        enough = time.thread_time() + seconds
        while time.thread_time() < enough:
            pass
        return whole(*given, **named)

    return replaced(target, slowed)
