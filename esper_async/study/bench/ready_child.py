"""How soon are compiled kernels at work in another process? `python -m ….ready_child FOLDER`

Imports torch, and then, against the clock, loads every kernel that was kept and trains each for a
step. Prints how long that took in JSON, and how many they were.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import torch

imported_s = time.process_time()


def main() -> None:
    """Load and train every kept kernel of the library in a folder."""
    from esper_async.kasmina.compiling.kernel_artifact import COMPILATION
    from esper_async.kasmina.compiling.kernel_forward import is_compiled, run_compiled
    from esper_async.kasmina.compiling.kernel_record import Compilation
    from esper_async.kasmina.interface import SiteInterface
    from esper_async.kasmina.kernels import build_kernel
    from esper_async.study.bench.compiled import load, opened
    from esper_async.urza.query import Query

    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    with opened(folder) as library:
        contents = [library.read(asset.key) for asset in library.find(Query(kind=COMPILATION))]
    kept = [record for each in contents if each and (record := Compilation.from_json(each)).kept]
    trained = 0
    for record in kept:
        kind, sizes, dtype, layout = record.interface.split("-")
        shape = tuple(int(size) for size in sizes.split("x"))
        interface = SiteInterface(kind, shape, dtype, layout)  # type: ignore[arg-type]
        with tempfile.TemporaryDirectory() as scratch:
            program = load(folder, record, Path(scratch))
        kernel = build_kernel(record.blueprint_id, interface, record.settings, seed=0)
        run_compiled(kernel, program)
        h = torch.randn(record.batch, *interface.shape, requires_grad=True)
        kernel(h).square().mean().backward()
        trained += is_compiled(kernel)
    ready_s = time.process_time() - imported_s
    sys.stdout.write(
        json.dumps({"ready_s": ready_s, "kernels": trained, "kept": len(kept),
                    "compiler_loaded": "torch._inductor.compile_fx" in sys.modules})
    )  # fmt: skip


if __name__ == "__main__":
    main()
