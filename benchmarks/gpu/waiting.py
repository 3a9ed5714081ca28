"""Whether a training step waits for the GPU, and whether an attack can be replayed as a CUDA graph."""

from typing import Any

import torch
from lightning import Callback, Trainer
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.common.training import DEFENSES, defended, settle
from benchmarks.common.workloads import Workload
from benchmarks.gpu.lines import InapplicableError
from lightning_robust.attacks import PGD
from lightning_robust.data import Indexed
from lightning_robust.runtime.rng import SampleRNG

METHODS = list(DEFENSES)
BY_DEFINITION = {
    "ST": "each attack step reads whether the clean image is an extreme, and leaves out its pass where it is not",
    "IAAT": "it reads which samples need a probe, and leaves out the others",
}
WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize", "aten::_local_scalar_dense", "Memcpy DtoH")
ONLY_CUDA = "a GPU alone can be waited for"


class _Watch(Callback):
    """The second step fails where it waits for the GPU; the third is profiled."""

    def __init__(self) -> None:
        self.waits: dict[str, int] = {}
        self.profiler = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:
            torch.cuda.set_sync_debug_mode("error")
        elif batch_idx == 2:
            self.profiler.start()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        torch.cuda.set_sync_debug_mode("default")
        if batch_idx == 2:
            self.profiler.stop()
            counts = {event.key: event.count for event in self.profiler.key_averages()}
            self.waits = {wait: sum(n for key, n in counts.items() if key.startswith(wait)) for wait in WAITS}


def unwaited(method: str, device: str) -> dict[str, Any]:
    """How often a training step of a method waits for the GPU, by torch's own check and by the profiler."""
    if device != "cuda":
        raise InapplicableError(ONLY_CUDA)
    if method in BY_DEFINITION:
        raise InapplicableError(BY_DEFINITION[method])
    given, batch = Workload("small", 16, device).build()
    defense, watch = defended(method, given), _Watch()
    three = TensorDataset(batch.x.cpu().repeat(3, 1, 1, 1), batch.y.cpu().repeat(3))
    settle(defense, len(three), device)
    settings: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        max_epochs=1, accelerator=device, devices=1, callbacks=[watch], enable_model_summary=False, **settings
    )
    try:
        trainer.fit(defense, DataLoader(Indexed(three), len(batch.x)))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    if any(watch.waits.values()):
        raise RuntimeError(f"the profiler saw {watch.waits}")
    return watch.waits


def captured(device: str) -> dict[str, Any]:
    """Share of pixels that a replayed CUDA graph of PGD, on another batch than it was made on, ends elsewhere than PGD.

    Methods as a whole are no such graph: their steps change the net's mode, and some let samples leave the batch.
    """
    if device != "cuda":
        raise InapplicableError("a GPU alone has CUDA graphs")
    net, batch = Workload("small", 16, device).build()
    attack, rng = PGD(steps=3), SampleRNG(0, torch.arange(len(batch.x), device=device))
    x, y = batch.x.clone(), batch.y.clone()
    beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):
            attack(net, x, y, start=x, rng=rng)
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x_adv = attack(net, x, y, start=x, rng=rng)
    x.copy_(batch.x.flip(0))
    y.copy_(batch.y.flip(0))
    graph.replay()
    far = (x_adv - attack(net, x.clone(), y.clone(), start=x.clone(), rng=rng)).abs() > 1e-5
    share = float(far.double().mean())
    if share > 0.01:  # rounding may turn the sign of a gradient
        raise RuntimeError(f"{share:.1%} of the replayed examples' pixels are not the attack's")
    return {"pixels elsewhere": share}
