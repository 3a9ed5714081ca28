"""A training step reads nothing back from the device and copies no number to it, for which a GPU would be waited for.

On a CPU nothing waits: what would on a GPU is recognised by the calls from Python. `benchmarks/gpu.sh` asks a GPU.
"""

import copy
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_robust.defenses import base
from lightning_robust.utils import images
from tests.defenses.test_synchronisation import ATTACK, NEVER, WAITS
from tests.helpers.few import Few, norm_net

READS = {"item", "__float__", "__bool__", "__int__", "__index__", "tolist", "cpu", "numpy", "nonzero", "unique"}
COPIES = {"tensor", "as_tensor", "new_tensor"}
BY_DEFINITION = {
    "ST": {"__bool__"},
    "IAAT": {"nonzero"},
    "MMA": {"nonzero"},
    "EAT": {"tolist"},
    "AT, restarts": {"nonzero"},
}
"""What those that wait by definition ask (`WAITS` says why); FAT's mask as an index is no call of these."""


class Watch(TorchFunctionMode, Callback):
    """What is read or copied from the second step on; the first one checks its input."""

    def __init__(self) -> None:
        super().__init__()
        self.on, self.seen = False, set[str]()

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        copied = args[1 if name == "new_tensor" else 0] if name in COPIES else None
        if self.on and (name in READS or (copied is not None and not isinstance(copied, Tensor))):
            self.seen.add(name)
        return func(*args, **(kwargs or {}))

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.on = batch_idx > 0

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.on = False


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks that cost nothing on a CPU alone are left out, as on a GPU."""
    original = images.reading_is_free
    for module in [*sys.modules.values()]:
        if vars(module).get("reading_is_free") is original:
            monkeypatch.setattr(module, "reading_is_free", lambda x: False)
    check: Callable[..., int | None] = base.check_batch
    monkeypatch.setattr(base, "check_batch", lambda *args: check(*args) if args[-1] else None)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("method", [*NEVER, *WAITS])
def test_a_step_reads_nothing(method: str) -> None:
    cls, settings = (NEVER | WAITS)[method]
    defense, watch = cls(norm_net(), **{"attack": ATTACK, **copy.deepcopy(settings)}), Watch()
    off: dict[str, Any] = dict.fromkeys(["logger", "enable_checkpointing", "enable_progress_bar"], False)
    trainer = Trainer(max_epochs=1, accelerator="cpu", callbacks=[watch], enable_model_summary=False, **off)
    with watch:
        trainer.fit(defense, Few(n=16, batch_size=4))
    assert watch.seen == BY_DEFINITION.get(method, set())


def test_the_watch_sees_reads_and_copies() -> None:
    with Watch() as watch:
        watch.on = True
        torch.as_tensor(0.5)
        float(torch.ones(()))
        torch.as_tensor(torch.ones(()))
        torch.ones(()).new_tensor(0.5)
    assert watch.seen == {"as_tensor", "__float__", "new_tensor"}
