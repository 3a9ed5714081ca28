"""The value of a scalar on a device, read without waiting."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_robust.runtime.host_value import HostValue


class Queue:
    """A device's queue as the host sees it: a copy arrives when `run` is called."""

    def __init__(self) -> None:
        self.copies: list[tuple[Tensor, float]] = []

    def run(self) -> None:
        for host, value in self.copies:
            host.fill_(value)
        self.copies.clear()

    def query(self) -> bool:
        return not self.copies

    def record(self, stream: Any) -> None:
        pass


class Pinned(torch.Tensor):
    """Host memory into which a copy is queued; reading it before the copy has arrived is the mistake looked for."""

    queue: Queue

    def copy_(self, other: Any, non_blocking: bool = False) -> Any:
        assert non_blocking
        self.queue.copies.append((self, other.number))
        return self

    def __float__(self) -> float:
        assert not self.queue.copies, "read while the copy was on its way"
        return super().__float__()


class OnDevice:
    """A scalar whose value the host cannot ask for."""

    device = SimpleNamespace(type="cuda")

    def __init__(self, number: float) -> None:
        self.number = number

    def detach(self) -> "OnDevice":
        return self

    float = detach


def test_a_scalar_on_the_cpu_is_read_at_once() -> None:
    loss = HostValue()
    assert loss.value is None
    loss.follow(torch.tensor(0.25, requires_grad=True))
    assert loss.value == 0.25


def test_one_on_a_gpu_is_read_when_it_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue()
    memory = torch.zeros(()).as_subclass(Pinned)
    memory.queue = queue
    monkeypatch.setattr(torch, "empty", lambda *size, pin_memory: memory)
    monkeypatch.setattr(torch.cuda, "Event", lambda: queue)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    loss, seen = HostValue(), []
    for step in range(5):
        loss.follow(OnDevice(float(step)))  # type: ignore[arg-type]
        seen.append(loss.value)
        if step in (1, 3):
            queue.run()
    assert seen == [None, None, 0.0, 0.0, 2.0]
