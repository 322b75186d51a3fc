"""Compiles kernels without end, as the forge does: `python -m ….compiling_child FOLDER NICE`.

Prints a line once it compiles.
"""

import os
import sys
import tempfile
from itertools import count, cycle
from pathlib import Path


def main() -> None:
    """Compile one kernel after the other, each for another batch size, until killed."""
    folder = Path(sys.argv[1])
    os.nice(int(sys.argv[2]))
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")

    from esper_async.kasmina.compiling.kernel_compiler import compile_kernel
    from esper_async.kasmina.compiling.kernel_record import Strategy
    from esper_async.kasmina.interface import SiteInterface

    site = SiteInterface("spatial", (8, 8, 8))
    sys.stdout.write("\n")
    sys.stdout.flush()
    for batch, blueprint in zip(count(8), cycle(("BP009", "BP011", "BP014"))):
        with tempfile.TemporaryDirectory(dir=folder) as place:
            compile_kernel(
                blueprint, site, Path(place), batch=batch, threads=1, strategy=Strategy.STANDARD
            )


if __name__ == "__main__":
    main()
