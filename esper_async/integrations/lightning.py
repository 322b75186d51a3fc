"""Growth in PyTorch Lightning: `Trainer(callbacks=[GrowerCallback(loss=...)])`.

A boundary is where the trainer has validated; growth decides on the trainer's own validation data.
Checkpoints hold the grower's state, and `trainer.fit(fresh_module, ckpt_path=...)` goes on from one
to the bit.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from esper_async.integrations.errors import MissingPackageError, UnsupportedLoopError
from esper_async.integrations.loop_growth import LoopGrowth
from esper_async.integrations.twin_step import Clip
from esper_async.kasmina.evaluation import Loss
from esper_async.kasmina.precision import PrecisionName
from esper_async.tolaria.boundary_report import BoundaryReport
from esper_async.tolaria.grower import Grower

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ModuleNotFoundError:
    try:  # the same code under its other name
        from pytorch_lightning import Callback, LightningModule, Trainer  # type: ignore[assignment]
    except ModuleNotFoundError as missing:
        raise MissingPackageError("lightning", "lightning") from missing

_PRECISIONS: dict[str, PrecisionName] = {
    "32-true": "32",
    "bf16-mixed": "bf16-mixed",
    "16-mixed": "16-mixed",
}


class GrowerCallback(Callback):
    """Grows the module that a trainer fits.

    Growth calls the module itself, not its `training_step`: `module(input)` on batches that are
    (input, target), else `forward=(module, batch) -> (output, target)`. Neither may log. A seed on
    trial is judged against a twin that is trained on the same batches with that loss, clipped as
    the trainer clips. Where `training_step` does more than that, as with augmented inputs, give a
    `train_step=(module, optimizer, batch) -> loss` that does it, too, or None for no twin.

    Args:
        loss: `loss(output, target)`, what `training_step` minimises.
        options: further keyword arguments of `Grower`, such as policy, seed, growth and forward.
            Precision and gradient scaler are the trainer's.

    Raises:
        TypeError: `Grower` has no such argument, or the trainer decides it.
        UnsupportedLoopError: when fitting starts, if the trainer is set to do what growth cannot
            follow.
    """

    def __init__(self, *, loss: Loss, **options: Any) -> None:
        self._growth = LoopGrowth(loss, options)
        self._saved: dict[str, Any] | None = None
        self._loading: RemovableHandle | None = None
        self._batches: list[Any] = []
        self._steps = 0

    @property
    def grower(self) -> Grower | None:
        """The grower of the present or last fit; None before the first."""
        return self._growth.grower

    @property
    def reports(self) -> list[BoundaryReport]:
        """What happened at each boundary of this fit."""
        return self._growth.reports

    # -- a fit begins --------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot be followed; see to it that a checkpoint's seeds find their way."""
        if stage == "fit":
            _refuse_unsupported(trainer, pl_module)
        self._saved = None
        self._forget_loading()
        hook = _leave_seeds_out if stage == "fit" else _refuse_other_seeds
        self._loading = pl_module.register_load_state_dict_pre_hook(hook)  # type: ignore[no-untyped-call]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the grower, now that weights are where they are trained and there is an optimizer.

        A checkpoint's seeds are planted after the optimizer was made: they have ones of their own.
        """
        self._forget_loading()
        if len(trainer.optimizers) != 1:
            raise UnsupportedLoopError(
                f"configure_optimizers returned {len(trainer.optimizers)} optimizers; growth "
                f"follows one: put its parameters into groups of a single optimizer"
            )
        precision = _PRECISIONS[trainer.precision]
        self._growth.start(
            pl_module,
            trainer.optimizers[0],
            precision=precision,
            scaler=trainer.scaler if precision == "16-mixed" else None,
            clip=_clip(trainer),
            divisor=lambda count: trainer.accumulate_grad_batches,
            boundaries=_boundaries(trainer),
            saved=self._saved,
        )
        self._saved = None
        self._batches = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count optimizer steps from where a checkpoint left off."""
        self._steps = trainer.global_step

    # -- steps and boundaries ------------------------------------------------------------------

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Go on by an optimizer step, if this batch has completed one."""
        if outputs or not pl_module.automatic_optimization:  # else training_step gave it up
            self._batches.append(batch)
        if trainer.global_step > self._steps:
            self._steps = trainer.global_step
            batches, self._batches = self._batches, []
            self._growth.after_step(batches)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide, grow, advance."""
        fitting = trainer.state.fn == "fit" and not trainer.sanity_checking
        if fitting and self._growth.is_due(trainer.global_step):
            self._growth.boundary(_validation_batches(trainer), step=trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End growth: the network is what was kept."""
        if trainer.val_dataloaders is not None:  # else it ended before the first validation
            self._growth.finish(_validation_batches(trainer))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave nothing behind on the module but its seeds."""
        self._forget_loading()

    def _forget_loading(self) -> None:
        if self._loading is not None:
            self._loading.remove()
        self._loading = None

    # -- checkpoints ---------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the grower's state, which shares its tensors with the rest of the checkpoint."""
        return self._growth.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a checkpoint's state until there is an optimizer."""
        self._saved = state_dict


def _refuse_unsupported(trainer: Trainer, module: LightningModule) -> None:
    if trainer.world_size > 1 or getattr(trainer.strategy, "strategy_name", "") != "single_device":
        raise UnsupportedLoopError(
            f"growth runs in one process on one device, not under {type(trainer.strategy).__name__}"
            f" with {trainer.world_size}; set Trainer(devices=1, strategy='auto')"
        )
    if trainer.precision not in _PRECISIONS:
        known = ", ".join(map(repr, _PRECISIONS))
        raise UnsupportedLoopError(
            f"growth does not know precision {trainer.precision!r}; set one of {known}"
        )
    if not trainer.enable_validation:
        raise UnsupportedLoopError(
            "growth decides where the trainer validates, and it never does: give it a validation "
            "loader and the module a validation_step, and leave limit_val_batches above 0"
        )
    if getattr(module, "_compiler_ctx", None) is not None:
        raise UnsupportedLoopError(
            "the module is compiled, and growth changes it; fit it without torch.compile, and let "
            'GrowerCallback(compile="regions") compile what is in it'
        )


def _clip(trainer: Trainer) -> Clip | None:
    """Return how the trainer limits gradients: those of the optimizer's own parameters."""
    limit = trainer.gradient_clip_val
    if not limit:
        return None
    by_value = trainer.gradient_clip_algorithm == "value"
    limiting: Any = clip_grad_value_ if by_value else clip_grad_norm_

    def clip(model: nn.Module, optimizer: Optimizer) -> None:
        limiting([p for group in optimizer.param_groups for p in group["params"]], limit)

    return clip


def _boundaries(trainer: Trainer) -> int | None:
    """Return how often this fit validates, where that is known beforehand."""
    epochs = trainer.max_epochs
    every = trainer.check_val_every_n_epoch
    if epochs is None or epochs < 0 or every is None or trainer.val_check_interval != 1.0:
        return None
    return epochs // every


def _validation_batches(trainer: Trainer) -> Iterator[Any]:
    """Yield the batches that the trainer validates on, prepared as for the module.

    Of several loaders it is the first.
    """
    loader: Any = trainer.val_dataloaders
    if isinstance(loader, Mapping):
        loader = next(iter(loader.values()))
    elif isinstance(loader, list | tuple):
        loader = loader[0]
    limit = trainer.num_val_batches[0]
    batches: Iterable[Any] = loader if limit == float("inf") else islice(loader, int(limit))
    for batch in batches:
        ready = trainer.lightning_module.on_before_batch_transfer(batch, dataloader_idx=0)
        yield trainer.strategy.batch_to_device(ready, dataloader_idx=0)


# -- weights of a checkpoint -------------------------------------------------------------------


def _seeds_in(state: Mapping[str, Any]) -> set[str]:
    """Return the names of seeds' tensors among those of a network."""
    return {key for key in state if any(part.startswith("esper_") for part in key.split("."))}


def _leave_seeds_out(module: nn.Module, state: dict[str, Any], *_: Any) -> None:
    """Load the host alone: the grower plants the seeds, with their weights, when it is made."""
    for key in _seeds_in(state):
        del state[key]


def _refuse_other_seeds(module: nn.Module, state: dict[str, Any], *_: Any) -> None:
    if _seeds_in(state) != _seeds_in(module.state_dict()):
        raise UnsupportedLoopError(
            "the checkpoint holds other seeds than the module: it was written earlier in the run; "
            "evaluate the module as it is, with trainer.test(module), or save the grown network "
            "with save_grown and put it into a fresh module with load_grown"
        )
