"""The processes of one training run, as `torchrun` starts them; alone without it.

Every process runs the same code on its own part of each batch; gradients are summed so that all
hold the same weights. Refuses to know what is trained.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn

PATIENCE = timedelta(hours=12)
"""While the first process draws views the others wait; a dead one is `torchrun`'s to find."""


@dataclass(frozen=True, slots=True)
class Processes:
    """Which process this is.

    Attributes:
        rank: From 0; the first alone writes files and talks to the terminal.
        count: Of all processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def part(self, n: int) -> slice:
        """This process's part of n items, of which every process has `n // count` or one more."""
        each, left = divmod(n, self.count)
        start = self.rank * each + min(self.rank, left)
        return slice(start, start + each + (self.rank < left))

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the processes, in place."""
        if self.count > 1:
            distributed.all_reduce(values)
        return values

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its sum over the processes, in one exchange."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.count == 1 or not gradients:
            return
        joined = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = torch.split(joined, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def wait_for_all(self) -> None:
        """Return when every process is here."""
        if self.count > 1:
            distributed.barrier()


ALONE = Processes()


def local_device(name: str) -> torch.device:
    """`cuda` is the device that `torchrun` means for this process; other names are as they are."""
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return torch.device(name)


@contextmanager
def joined_processes(device: torch.device) -> Iterator[Processes]:
    """The processes that `torchrun` started, joined while the context lasts."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=PATIENCE)
    try:
        yield Processes(rank=distributed.get_rank(), count=count)
    finally:
        distributed.destroy_process_group()
