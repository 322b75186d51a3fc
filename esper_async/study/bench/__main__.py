"""Run the benchmarks from a shell."""

import sys

from esper_async.runtime.logging import configure_logging
from esper_async.study.bench.command import main

configure_logging("warning")  # to standard error: what is printed may be one JSON document
sys.exit(main())
