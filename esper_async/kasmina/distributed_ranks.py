"""Ranks over `torch.distributed`: started by `torchrun`, or by whoever made the process group."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from esper_async.kasmina.ranks import FirstRankError, Form, RanksDifferError, differences

T = TypeVar("T")


class DistributedRanks:
    """The processes of a process group; each trains a replica of the network.

    Nothing that is sent is pickled: facts and decisions travel as JSON, numbers as tensors.

    Args:
        group: the processes; all of them if None.
        find_unused_parameters, bucket_cap_mb, gradient_as_bucket_view: of every
            `DistributedDataParallel` that wraps the network.

    Raises:
        RuntimeError: there is no process group yet.
    """

    def __init__(
        self,
        group: dist.ProcessGroup | None = None,
        *,
        find_unused_parameters: bool = False,
        bucket_cap_mb: float | None = None,
        gradient_as_bucket_view: bool = False,
    ) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise RuntimeError(
                "there is no process group: start the script with torchrun and call "
                "torch.distributed.init_process_group() before DistributedRanks()"
            )
        self._group = group
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)
        self._device_types = _device_types(group)
        self._device = torch.device("cpu")
        if "cpu" not in self._device_types:
            self._device = torch.device("cuda", torch.cuda.current_device())
        self._options: dict[str, Any] = {
            "find_unused_parameters": find_unused_parameters,
            "bucket_cap_mb": bucket_cap_mb,
            "gradient_as_bucket_view": gradient_as_bucket_view,
        }

    def wrap(self, model: nn.Module, *, synchronise: bool) -> nn.Module:
        """Return a new `DistributedDataParallel` around the model as it is now."""
        return DistributedDataParallel(
            model, process_group=self._group, init_sync=synchronise, **self._options
        )

    def retire(self, wrap: nn.Module) -> None:
        """Let a forward pass through a wrap raise from now on.

        It would train what has been added since on each rank by itself, without an error.
        """
        wrap.register_forward_pre_hook(_refuse)

    def average(self, gradients: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the ranks, in place."""
        for flat, parts in self._flattened(gradients):
            flat.div_(self.size)  # before the sum, which might overflow in half precision
            dist.all_reduce(flat, group=self._group)
            _spread(flat, parts)

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Give every rank the values that the tensors have on rank 0, in place."""
        for flat, parts in self._flattened(tensors):
            self._send(flat)
            if self.rank != 0:
                _spread(flat, parts)

    def from_first(self, work: Callable[[], T], form: Form[T]) -> T:
        """Do some work on rank 0 alone and return its result, as it travelled, on every rank.

        Raises:
            FirstRankError: the work raised on rank 0, which raises what it raised.
        """
        told: dict[str, Any] = {}
        numbers = torch.empty(0, dtype=torch.float64)
        if self.rank == 0:
            try:
                content, numbers = form.pack(work())
                told = {"content": content, "numbers": numbers.numel()}
                text = json.dumps(told)
            except Exception as error:
                self._tell(json.dumps({"error": f"{type(error).__name__}: {error}"}))
                raise
            told = json.loads(self._tell(text))
        else:
            told = json.loads(self._tell(""))
        if "error" in told:
            raise FirstRankError(f"rank 0 raised {told['error']}")
        if told["numbers"]:
            row = torch.empty(told["numbers"], dtype=torch.float64)
            numbers = self._send((numbers if self.rank == 0 else row).to(self._device)).cpu()
        return form.unpack(told["content"], numbers)

    def must_agree(self, facts: Mapping[str, str], remedy: str) -> None:
        """Compare what the ranks hold, by name; every rank raises if one of them differs.

        Raises:
            RanksDifferError: with what differs, and `remedy` for what to do about it.
        """
        digest = hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode()).digest()
        if len(set(self._gather(digest))) == 1:
            return
        first = json.loads(self._tell(json.dumps(dict(facts))))
        each = self._gather(differences(first, facts).encode())
        told = [f"on rank {rank}, {what.decode()}" for rank, what in enumerate(each) if what]
        raise RanksDifferError(f"the ranks differ: {'. '.join(told)}. {remedy}")

    def _tell(self, text: str) -> str:
        """Return the text that rank 0 tells."""
        payload = torch.frombuffer(bytearray(text.encode() or b"\0"), dtype=torch.uint8)
        size = self._send(torch.tensor([payload.numel()], device=self._device))
        if self.rank != 0:
            payload = torch.empty(int(size), dtype=torch.uint8)
        return bytes(self._send(payload.to(self._device)).tolist()).decode()

    def _gather(self, payload: bytes) -> list[bytes]:
        """Return what every rank told, in the order of ranks."""
        size = torch.tensor([len(payload)], device=self._device)
        sizes = [torch.empty_like(size) for _ in range(self.size)]
        dist.all_gather(sizes, size, group=self._group)
        lengths = [int(each) for each in sizes]
        padded = payload.ljust(max(*lengths, 1), b"\0")
        mine = torch.frombuffer(bytearray(padded), dtype=torch.uint8).to(self._device)
        told = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(told, mine, group=self._group)
        return [bytes(each.tolist())[:length] for each, length in zip(told, lengths, strict=True)]

    def _send(self, tensor: Tensor) -> Tensor:
        dist.broadcast(tensor, group=self._group, group_src=0)
        return tensor

    def _flattened(self, tensors: Sequence[Tensor]) -> list[tuple[Tensor, list[Tensor]]]:
        """Return tensors by dtype and device, each kind in one row (N,) that can be sent."""
        kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for tensor in tensors:
            kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor.detach())
        rows = []
        for (_, device), parts in kinds.items():
            row = torch.cat([part.reshape(-1) for part in parts])
            sendable = device.type in self._device_types
            rows.append((row if sendable else row.to(self._device), parts))
        return rows


def _device_types(group: dist.ProcessGroup | None) -> list[str]:
    """Return the types of device whose tensors a group can send; NCCL only sends a GPU's."""
    pairs = str(dist.get_backend_config(group)).split(",")
    return [pair.partition(":")[0] for pair in pairs]


def _spread(flat: Tensor, parts: Sequence[Tensor]) -> None:
    """Write the values of a row (N,) back into the tensors it was made of."""
    start = 0
    for part in parts:
        part.copy_(flat[start : start + part.numel()].view(part.shape))
        start += part.numel()


def _refuse(wrap: nn.Module, args: Any) -> None:
    raise RuntimeError(
        "the network has changed since this wrap was made: call grower.trained_model anew in "
        "every forward pass, and keep no reference to what it returned"
    )
