"""A run as the API shows it: what the run manager decides, with what the journal tells."""

from typing import Any

from esper_async.tamiyo.picture import RunPicture
from esper_async.tolaria.runs import Run

Json = dict[str, Any]


def summary_of(run: Run | None, told: Json | None, progress: Json | None = None) -> Json:
    """Return the fields of `GET /api/runs/{id}`.

    State, error and creation are the manager's word where it knows the run; all that was measured
    is the journal's. At least one of the two is given. `progress` is what the training process says
    it is doing, empty without one.
    """
    if told is None:
        assert run is not None, "a run that nobody knows has no summary"
        told = RunPicture(run.id).summary()
    told = {**told, "progress": progress or {}}
    if run is None:
        return told
    return {
        **told,
        "name": run.name,
        "state": run.state,
        "epochs": run.config["run"]["epochs"],
        "policy": run.config["growth"]["policy"],
        "created_at": run.created_at,
        "error": run.error or told["error"],
    }
