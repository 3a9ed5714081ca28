"""Labels that `predict` writes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_robust.callbacks import PseudoLabels
from lightning_robust.defenses import Standard
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.few import Few, norm_net
from tests.helpers.foreign import images


def test_labels_are_the_nets_classes_in_the_order_of_the_images(tmp_path: Path) -> None:
    callback = PseudoLabels(str(tmp_path / "new/labels.npz"))
    trainer = quiet_trainer(callbacks=[callback])
    for _ in range(2):  # again: nothing is left over from the first time
        trainer.predict(Standard(norm_net()), Few(batch_size=4))
        with np.load(tmp_path / "new/labels.npz", allow_pickle=False) as file:
            assert list(file) == ["label"]
            expected = norm_net().eval()(images(11, seed=1).tensors[0]).argmax(1)
            assert torch.equal(torch.from_numpy(file["label"]), expected)


def test_several_devices_are_refused(tmp_path: Path) -> None:
    def on(rank: int) -> None:
        trainer = ddp_trainer(callbacks=[PseudoLabels(str(tmp_path / "labels.npz"))])
        with pytest.raises(ValueError, match=r"needs one device: run predict with --trainer\.devices 1"):
            trainer.predict(Standard(norm_net()), Few())

    run_ddp(on)
    assert not list(tmp_path.iterdir())
