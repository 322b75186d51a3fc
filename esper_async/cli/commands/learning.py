"""`study`, `collect` and `learn`: many runs, and what is learned from them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from esper_async.cli.app import StateDir, output
from esper_async.cli.failure import reported

commands = typer.Typer()


@commands.command()
@reported
def study(
    files: Annotated[list[Path], typer.Argument(help="Plans (TOML), run one after the other.")],
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Runs at a time; default: one a core.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Fail unless every comparison of the plan holds.")
    ] = False,
    first_seed: Annotated[
        int | None,
        typer.Option(min=0, help="Repeat with seeds from here on, against the first time."),
    ] = None,
    state_dir: StateDir = None,
) -> None:
    """Compare ways of training over many runs; what is interrupted goes on where it was."""
    from esper_async.cli.running import state_dir_of
    from esper_async.cli.study import studies
    from esper_async.simic.registry import learned_document

    root = state_dir_of(state_dir)
    code = studies(
        files, root / "studies", output(), workers=workers, check=check, first_seed=first_seed,
        learned=learned_document(root),
    )  # fmt: skip
    raise typer.Exit(code)


@commands.command()
@reported
def collect(
    file: Annotated[Path, typer.Argument(help="The collection's plan (TOML).")],
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Runs at a time; default: one a core.")
    ] = None,
    state_dir: StateDir = None,
) -> None:
    """Gather experience with randomised policies; what is interrupted goes on where it was."""
    from esper_async.cli.collect import collect as gather
    from esper_async.cli.running import state_dir_of

    raise typer.Exit(gather(file, state_dir_of(state_dir), output(), workers=workers))


@commands.command()
@reported
def learn(
    learner: Annotated[
        Literal["awr", "bandit"], typer.Option(help="How; docs/rewards.md says what each is.")
    ] = "awr",
    target: Annotated[
        Path | None, typer.Option("-o", "--output", help="Default: simic/LEARNER.json there.")
    ] = None,
    keep_back: Annotated[
        float, typer.Option(min=0.1, max=0.9, help="Share of the runs that judge what is learned.")
    ] = 0.5,
    gate: Annotated[
        Path | None, typer.Option(help="The fresh runs that it must be no worse in (TOML).")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Runs at a time; default: one a core.")
    ] = None,
    state_dir: StateDir = None,
) -> None:
    """Learn from what was experienced; publish what is no worse in fresh runs, and nothing else."""
    from esper_async.cli.learn import Asked
    from esper_async.cli.learn import learn as learn_now
    from esper_async.cli.running import state_dir_of

    asked = Asked(learner, target, keep_back, gate, workers)
    raise typer.Exit(learn_now(state_dir_of(state_dir), output(), asked))
