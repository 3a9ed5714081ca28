"""Lightning's `overfit_batches`: the same few batches in each epoch, with the package's loaders too."""

from typing import Any

import pytest

from lightning_robust.attacks import PGD
from lightning_robust.defenses import AT, IAAT
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.few import Few, plain_net

OFF = "ignore:You requested to overfit but enabled .* dataloader shuffling"


def seen(trainer: Any, kind: Any, batches: int) -> list[list[int]]:
    """The positions that each epoch trained on."""
    epochs: list[list[int]] = []

    class Told(kind):  # type: ignore[misc]
        def on_train_epoch_start(self) -> None:
            epochs.append([])

        def generate(self, batch: Any) -> Any:
            epochs[-1].extend(batch.index.tolist())
            return super().generate(batch)

    trainer.fit(Told(plain_net(), attack=PGD(steps=1)), Few(n=16, batch_size=4))
    return epochs


@pytest.mark.filterwarnings(OFF)
@pytest.mark.parametrize("kind", [AT, IAAT])
def test_each_epoch_trains_on_the_same_batches(kind: Any) -> None:
    first, second = seen(quiet_trainer(max_epochs=2, overfit_batches=2), kind, 2)
    assert first == second
    assert len(set(first)) == 8


@pytest.mark.filterwarnings(OFF)
def test_on_two_ranks_too() -> None:
    one, two = run_ddp(lambda rank: seen(ddp_trainer(max_epochs=2, overfit_batches=1), AT, 1))
    assert one[0] == one[1]
    assert two[0] == two[1]
    assert not set(one[0]) & set(two[0])
