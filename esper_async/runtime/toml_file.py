"""Files that people write by hand: read whole, or refused in words."""

import tomllib
from pathlib import Path
from typing import Any

from esper_async.runtime.strict_model import ConfigurationError


def read_toml(path: Path) -> dict[str, Any]:
    """Return what a TOML file says. Raises ConfigurationError when it cannot be read, or is none.

    So are, beside what tomllib calls an error, numbers too long for Python and endless nesting.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(str(path), [f"it cannot be read: {error.strerror}"]) from None
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(str(path), [f"it is not valid TOML: {error}"]) from None
