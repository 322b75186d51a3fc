"""Rotate the signing key without a gap: a new key signs, the older ones are still read for a while.

    python -m esper_async.leyline.rotate STATE_DIR/leyline.key --overlap-hours 24

What the old key signed (spools, messages on their way) is read until the overlap ends.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from esper_async.leyline.keys import UNTIL, key_words, load_keys, write_private
from esper_async.leyline.signing import KEY_BYTES


def rotate(path: Path, *, overlap_s: float, now: float | None = None) -> None:
    """Put a new key in front of the file's, which are accepted for `overlap_s` more at most.

    Processes that run keep the keys they have read: restart them within the overlap, readers
    before writers. Raises as `load_keys`, FileNotFoundError when there is no file.
    """
    started = time.time() if now is None else now
    lines = [line for line in path.read_text().splitlines() if key_words(line)]
    load_keys(path, {}, now=started)  # nothing is written behind a file that cannot be read
    older = [line if UNTIL in line else f"{key_words(line)[0]} {UNTIL}{started + overlap_s:.0f}"
             for line in lines]  # fmt: skip
    scratch = write_private(path, [os.urandom(KEY_BYTES).hex(), *older])
    scratch.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Rotate the key file named on the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m esper_async.leyline.rotate")
    parser.add_argument("file", type=Path, help="STATE_DIR/leyline.key")
    parser.add_argument("--overlap-hours", type=float, default=24.0, help="old keys still read")
    asked = parser.parse_args(arguments)
    try:
        rotate(asked.file, overlap_s=asked.overlap_hours * 3_600)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{asked.file} signs with a new key; restart what reads it\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
