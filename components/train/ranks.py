"""Several processes train one network like one process: each gets its share of every batch.

Sums over a batch (loss, Dice, batch normalisation) are sums over the shares of all processes, so the result does not
depend on their number, except for rounding. With one process, everything here does nothing.
"""

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Connect the processes that torchrun started: by NCCL on GPUs, by gloo on CPUs."""
    gpus = torch.cuda.is_available()
    if gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if gpus else "gloo")
    if not first():
        logging.disable(logging.INFO)  # only the first one logs
    yield
    dist.destroy_process_group()  # not after an error: it would wait for the others


def together() -> bool:
    """Return whether several processes train."""
    return dist.is_initialized()


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if together() else 0


def count() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if together() else 1


def on_this_machine() -> int:
    """Return the number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if together() else 1


def over_gpus() -> bool:
    """Return whether the processes share their batches through GPUs."""
    return together() and dist.get_backend() == "nccl"


def first() -> bool:
    """Return whether this is the process that logs, saves checkpoints and writes results."""
    return rank() == 0


def of_first(make: Callable[[], Any]) -> Any:
    """Call `make` in the first process, and return its result in all processes."""
    box = [make() if first() else None]
    if together():
        dist.broadcast_object_list(box)
    return box[0]


def of_all(mine: list) -> list:
    """Return the items of all processes, which were divided as `items[rank::count]`, in their first order."""
    if not together():
        return mine
    parts: list[Any] = [None] * count()
    dist.all_gather_object(parts, mine)
    return [parts[i % count()][i // count()] for i in range(sum(map(len, parts)))]


def devices(mine: str) -> str:
    """Return the devices of all processes as text, by node if there are several; `mine` is that of this process."""
    if not together():
        return mine
    found = [("", "")] * count()
    dist.all_gather_object(found, (os.environ.get("GROUP_RANK", "0"), mine))
    nodes = sorted({node for node, _ in found}, key=int)
    of = {node: Counter(device for where, device in found if where == node) for node in nodes}
    texts = {node: ", ".join(f"{n} x {device}" for device, n in there.items()) for node, there in of.items()}
    return texts[nodes[0]] if len(nodes) == 1 else "; ".join(f"node {node}: {texts[node]}" for node in nodes)


def total(share: Tensor) -> Tensor:
    """Return the sum over all processes, elementwise; gradients are summed too."""
    return _Total.apply(share) if together() else share


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx, share: Tensor) -> Tensor:
        share = share.clone()
        dist.all_reduce(share)
        return share

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _Total.forward(ctx, gradient.contiguous())


def synchronized(network: nn.Module) -> nn.Module:
    """Return the network with batch statistics over all processes; parameters and state_dict stay the same."""
    if not together():
        return network
    if next(network.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = _CpuSyncBatchNorm  # only the forward pass differs
    return network


def parallel(network: nn.Module) -> nn.Module:
    """Return the network to train, whose gradients are means over the processes.

    Every process computes the loss of the whole batch (`total`), so its gradient is `count()` times that of its share,
    and the mean over the processes is the gradient of the whole batch.
    """
    if not together():
        return network
    devices = [torch.cuda.current_device()] if next(network.parameters()).is_cuda else None
    return DistributedDataParallel(network, device_ids=devices, forward_sync_buffers=False)


class _CpuSyncBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over all processes on CPUs, for which torch's SyncBatchNorm has no kernel."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x_BCHW)
        x, over = x_BCHW.float(), (0, 2, 3)
        n = total(torch.tensor(float(x.numel() // x.shape[1])))
        mean_C = total(x.sum(over)) / n
        centred = x - mean_C[:, None, None]
        var_C = total(centred.square().sum(over)) / n
        with torch.no_grad():
            momentum = cast(float, self.momentum)
            cast(Tensor, self.num_batches_tracked).add_(1)
            cast(Tensor, self.running_mean).lerp_(mean_C, momentum)
            cast(Tensor, self.running_var).lerp_(var_C * n / (n - 1), momentum)
        scale_C = self.weight * torch.rsqrt(var_C + self.eps)
        return (centred * scale_C[:, None, None] + self.bias[:, None, None]).to(x_BCHW.dtype)
