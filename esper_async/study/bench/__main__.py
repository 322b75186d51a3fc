"""Run the benchmarks from a shell."""

import sys

from esper_async.study.bench.command import main

sys.exit(main())
