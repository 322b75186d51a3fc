"""The story of a run as one HTML file that needs nothing else: no server, no network.

It is drawn by the page's own modules. Each is put into the file as a data URL and found by an
import map; instead of the live connection there is the story itself, as JSON. The file forbids
itself any request to anywhere.
"""

import base64
import html
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' data:; style-src 'unsafe-inline'; "
    "img-src data:; base-uri 'none'; form-action 'none'"
)
_MODULES = (
    "charts", "decisions", "dom", "lanes", "runs", "seeds", "store", "toast", "waterfall",
)  # fmt: skip
_STYLES = ("vendor/uPlot.min.css", "style.css", "story.css", "report.css")
_INSTEAD = {"connection": "report/connection.js", "dialog": "report/dialog.js"}
_ENTRY = "report/report.js"
_IMPORT = re.compile(r"from \"(?:\.{1,2}/(?:js/)?|/page/vendor/)([\w.]+)\.js\"")


def report_html(
    view: Mapping[str, Any],
    *,
    run_file: str,
    blueprints: list[dict[str, Any]],
    versions: Mapping[str, str],
    made_at: float,
) -> str:
    """Return the document.

    Args:
        view: everything about the run, as `GET /api/runs/{id}/picture` answers it.
        run_file: the TOML that makes the same run again; empty where nobody knows it.
        blueprints: the catalogue, for the names of what was planted.
        versions: what the run was trained with.
        made_at: Unix time of the report.
    """
    story = {
        "view": view,
        "run_file": run_file,
        "blueprints": [{"id": each["id"], "name": each["name"]} for each in blueprints],
        "versions": dict(versions),
        "made_at": made_at,
    }
    # JSON inside a script element: no "<" may end it
    told = json.dumps(story, allow_nan=False, default=str).replace("<", "\\u003c")
    name = html.escape(str(view["run"]["name"]))
    styles = "\n".join(_file(each) for each in _STYLES)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{name} · Esper</title>
<style>{styles}</style>
<script type="importmap">{json.dumps({"imports": _imports()})}</script>
</head>
<body class="report">
{_file("report/body.html")}
<script type="application/json" id="story">{told}</script>
<script type="module">{_rewritten(_file(_ENTRY))}</script>
</body>
</html>
"""


def _imports() -> dict[str, str]:
    sources = {name: f"js/{name}.js" for name in _MODULES} | _INSTEAD
    sources["uPlot.esm"] = "vendor/uPlot.esm.js"
    return {f"esper/{name}": _data_url(_rewritten(_file(path))) for name, path in sources.items()}


def _rewritten(source: str) -> str:
    """A module from a data URL has no place of its own: its imports go by name."""
    return _IMPORT.sub(r'from "esper/\1"', source)


def _data_url(source: str) -> str:
    return f"data:text/javascript;base64,{base64.b64encode(source.encode()).decode()}"


def _file(path: str) -> str:
    return files("esper_async.nissa").joinpath("page", *path.split("/")).read_text("utf-8")
