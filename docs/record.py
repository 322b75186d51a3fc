"""Record a command in a real terminal and write what it showed as an animated SVG.

    python docs/record.py -o docs/images/up.svg -- bin/esper-supervisor up --exit-when-done

The command runs in a pseudo-terminal of its own; every byte it writes is replayed on a small
screen, and a frame is kept whenever that has changed. The picture shortens waits, nothing else.
"""

import argparse
import fcntl
import io
import json
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from pathlib import Path

from rich.ansi import AnsiDecoder
from rich.console import Console, Group
from rich.text import Text

COLUMNS, ROWS = 100, 18
_CODE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|\r\n|\r|\n|[^\x1b\r\n]+")


class Screen:
    """As much of a terminal as rich's live view needs: lines and a cursor; colours are kept."""

    def __init__(self) -> None:
        self.lines = [""]
        self.row = 0

    def feed(self, text: str) -> None:
        """Take what the command wrote."""
        for match in _CODE.finditer(text):
            parameter, code = match.group(1), match.group(2)
            if code == "A":
                self.row = max(0, self.row - int(parameter or 1))
            elif code == "K":
                self.lines[self.row] = ""
            elif code == "m" or code is None:
                self._write(match.group(0))

    def _write(self, text: str) -> None:
        if text == "\r":
            return
        if text in ("\n", "\r\n"):
            self.row += 1
            if self.row == len(self.lines):
                self.lines.append("")
            return
        self.lines[self.row] += text

    def shown(self) -> list[str]:
        """Return the last lines, as many as fit; what was cleared below the cursor is not there."""
        end = 1 + max([self.row, *(row for row, line in enumerate(self.lines) if line)])
        return self.lines[:end][-ROWS:]


def record(command: list[str]) -> list[tuple[float, str]]:
    """Run a command in a terminal; return (seconds, text) for each time it wrote something."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, close_fds=True
    )
    os.close(theirs)
    written, began = [], time.monotonic()
    while True:
        ready, _, _ = select.select([ours], [], [], 0.2)
        if not ready:
            if process.poll() is not None:
                break
            continue
        try:
            data = os.read(ours, 65_536)
        except OSError:  # the last writer has closed its end
            break
        written.append((time.monotonic() - began, data.decode(errors="replace")))
    os.close(ours)
    process.wait()
    return written


def replay(written: list[tuple[float, str]]) -> list[tuple[float, list[str]]]:
    """Return (seconds, lines) for each change of the screen, empty ones left out."""
    screen, frames = Screen(), []
    for at, text in written:
        screen.feed(text)
        lines = screen.shown()
        if any(lines) and (not frames or frames[-1][1] != lines):
            frames.append((at, lines))
    return frames


def chosen(frames: list[tuple[float, list[str]]], count: int) -> list[list[str]]:
    """Pick `count` frames evenly over time, the last one among them."""
    end = frames[-1][0]
    picked: list[list[str]] = []
    for index in range(count):
        due = end * (index + 1) / count
        lines = [lines for at, lines in frames if at <= due or lines is frames[0][1]][-1]
        if not picked or picked[-1] != lines:
            picked.append(lines)
    return picked


def as_svg(lines: list[str], title: str, number: int) -> str:
    """Draw one frame."""
    console = Console(
        record=True, width=COLUMNS, height=ROWS, file=io.StringIO(), force_terminal=True
    )
    padded = [*lines, *[""] * (ROWS - len(lines))]
    console.print(Group(*[Text(" ") if not line else _text(line) for line in padded]))
    return console.export_svg(title=title, unique_id=f"frame{number}")


def _text(line: str) -> Text:
    text = Text("").join(AnsiDecoder().decode(line))
    text.no_wrap = True
    return text


def animate(frames: list[list[str]], title: str, frame_s: float, last_s: float) -> str:
    """Put the frames into one SVG that shows one after the other, for ever."""
    drawings = [as_svg(lines, title, number) for number, lines in enumerate(frames)]
    box = re.search(r'viewBox="([^"]+)"', drawings[0])
    assert box is not None
    total = frame_s * (len(frames) - 1) + last_s
    rules, parts = [], []
    for number, drawing in enumerate(drawings):
        start = 100 * frame_s * number / total
        stop = 100 * frame_s * (number + 1) / total if number + 1 < len(frames) else 100
        hidden_before = f"0%,{max(0, start - 0.01):.3f}% {{opacity:0}} " if number else ""
        hidden_after = f"{min(100, stop + 0.01):.3f}%,100% {{opacity:0}}" if stop < 100 else ""
        steps = f"{hidden_before}{start:.3f}%,{stop:.3f}% {{opacity:1}} {hidden_after}"
        rules.append(f"@keyframes show{number} {{{steps}}}")
        rules.append(f".show{number} {{animation: show{number} {total:g}s infinite step-end}}")
        parts.append(f'<g class="show{number}">{drawing}</g>')
    style = "<style>" + "\n".join(rules) + "</style>"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box.group(1)}">{style}'
        + "".join(parts)
        + "</svg>"
    )


def main() -> None:
    """Record the command that follows `--`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=16, help="at most so many")
    parser.add_argument("--title", default="bin/esper-supervisor up")
    parser.add_argument("--raw", type=Path, help="keep what was written, or, alone, draw it again")
    parser.add_argument("command", nargs="*")
    asked = parser.parse_args()
    written = record(asked.command) if asked.command else json.loads(asked.raw.read_text())
    if asked.raw is not None:
        asked.raw.write_text(json.dumps(written))
    frames = chosen(replay(written), asked.frames)
    asked.output.write_text(animate(frames, asked.title, 1.2, 6.0))


if __name__ == "__main__":
    main()
