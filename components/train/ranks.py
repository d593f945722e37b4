"""Several processes train one network as one process would: each takes its share of every batch.

What is summed over a batch (loss, Dice, batch normalisation) is summed over the shares of all processes, so the
result does not depend, but for rounding, on how many there are. Alone, everything here does nothing.
"""

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Inside, the processes that torchrun started know each other: over NCCL on GPUs, over gloo on CPUs."""
    gpus = torch.cuda.is_available()
    if gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if gpus else "gloo")
    if not first():
        logging.disable(logging.INFO)  # one of them speaks
    yield
    dist.destroy_process_group()  # not after an error: the others would be waited for


def together() -> bool:
    return dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if together() else 0


def count() -> int:
    return dist.get_world_size() if together() else 1


def on_this_machine() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if together() else 1


def over_gpus() -> bool:
    """Whether the processes share their batches through GPUs."""
    return together() and dist.get_backend() == "nccl"


def first() -> bool:
    """Whether this process is the one that logs, keeps checkpoints and writes results."""
    return rank() == 0


def of_first(make) -> Any:
    """What `make()` returns in the first process, in all of them."""
    box = [make() if first() else None]
    if together():
        dist.broadcast_object_list(box)
    return box[0]


def of_all(mine: list) -> list:
    """The items of all processes, dealt out as `items[rank::count]`, in their order again."""
    if not together():
        return mine
    dealt = [None] * count()
    dist.all_gather_object(dealt, mine)
    return [dealt[i % count()][i // count()] for i in range(sum(map(len, dealt)))]


def devices(mine: str) -> str:
    """The devices of all processes, in words, where `mine` is this one's: by node, where there are several."""
    if not together():
        return mine
    found = [("", "")] * count()
    dist.all_gather_object(found, (os.environ.get("GROUP_RANK", "0"), mine))
    nodes = sorted({node for node, _ in found}, key=int)
    of = {node: Counter(device for where, device in found if where == node) for node in nodes}
    words = {node: ", ".join(f"{n} x {device}" for device, n in there.items()) for node, there in of.items()}
    return words[nodes[0]] if len(nodes) == 1 else "; ".join(f"node {node}: {words[node]}" for node in nodes)


def total(share: Tensor) -> Tensor:
    """Sum over all processes, elementwise; its gradient is summed likewise."""
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
    """The network with its batch statistics over all processes; same parameters, same state_dict."""
    if not together():
        return network
    if next(network.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = _CpuSyncBatchNorm  # the same parameters and buffers, another forward pass
    return network


def parallel(network: nn.Module) -> nn.Module:
    """The network to train: its gradients are means over the processes.

    Every process computes the loss of the whole batch (`total`), so the gradient that arrives in each is `count()`
    times that of its share, and the mean of them is the gradient of the whole batch.
    """
    if not together():
        return network
    devices = [torch.cuda.current_device()] if next(network.parameters()).is_cuda else None
    return DistributedDataParallel(network, device_ids=devices, forward_sync_buffers=False)


class _CpuSyncBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over all processes, for CPUs: torch's own SyncBatchNorm has no kernel there."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x_BCHW)
        x, over = x_BCHW.float(), (0, 2, 3)
        n = total(torch.tensor(float(x.numel() // x.shape[1])))
        mean_C = total(x.sum(over)) / n
        centred = x - mean_C[:, None, None]
        var_C = total(centred.square().sum(over)) / n
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean_C, self.momentum)
            self.running_var.lerp_(var_C * n / (n - 1), self.momentum)
        scale_C = self.weight * torch.rsqrt(var_C + self.eps)
        return (centred * scale_C[:, None, None] + self.bias[:, None, None]).to(x_BCHW.dtype)
