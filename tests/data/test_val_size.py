"""Nothing held out, and less than there are devices."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_robust.cli.main import main
from lightning_robust.data import CIFAR10, Digits
from lightning_robust.defenses import Standard
from tests.cli.test_cli import QUICK, STANDARD, folder, the_run  # noqa: F401
from tests.helpers.command_line import refusal
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.few import Few, plain_net


@pytest.mark.slow
def test_without_validation_all_samples_train_and_the_last_epoch_is_kept(
    folder: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    quick = [*QUICK, "--trainer.max_epochs=2", "--data.val_size=0"]
    main(["fit", "--config", STANDARD, *quick])
    told = capsys.readouterr().out
    run = the_run(folder, "Digits/Standard/fit-*")
    assert "\nLast checkpoint. Test it with:\n" in told
    assert sorted(path.name for path in run.glob("checkpoints/*")) == ["epoch001.ckpt", "last.ckpt"]
    saved = [torch.load(path, weights_only=True) for path in sorted(run.glob("checkpoints/*"))]
    torch.testing.assert_close(saved[0]["state_dict"], saved[1]["state_dict"], rtol=0, atol=0)
    assert saved[0]["Digits"]["split"].startswith("0 of 1347: ")
    last = str(run / "checkpoints/last.ckpt")
    main(["fit", "--config", STANDARD, *quick, "--trainer.max_epochs=3", f"--ckpt_path={last}"])
    assert torch.load(last, weights_only=True)["epoch"] == 2
    told = refusal(capsys, "validate", "--config", STANDARD, *quick, f"--ckpt_path={last}")
    assert told.startswith("error: There is nothing to validate on because val_size is 0: set val_size to the value")
    assert "held out other samples" in refusal(capsys, "fit", "--config", STANDARD, *QUICK, f"--ckpt_path={last}")


def test_the_whole_training_set_is_seen() -> None:
    data = Few(n=12, val_size=0, batch_size=4)
    data.setup("fit")
    assert len(data.train_set) == 12
    with pytest.raises(ValueError, match="There are no images to evaluate on: raise val_size"):
        data.val_dataloader()
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(Standard(plain_net()), data)
    assert trainer.global_step == 3


@pytest.mark.parametrize("fails", [False, True])
def test_the_trainer_validates_on_other_data_afterwards(fails: bool) -> None:
    class Failing(Standard):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            if fails:
                raise RuntimeError("in the midst")
            return super().training_step(batch, batch_idx)

    trainer, model = quiet_trainer(max_epochs=1, limit_val_batches=2), Failing(plain_net())
    with pytest.raises(RuntimeError, match="in the midst") if fails else nullcontext():
        trainer.fit(model, Few(val_size=0))
    assert trainer.limit_val_batches == 2
    other = Few(val_size=4)
    other.setup("validate")
    x, y = (torch.stack(part) for part in zip(*[(s[0], torch.as_tensor(s[1])) for s in other.val_set], strict=True))
    (logged,) = trainer.validate(model, other.val_dataloader(), verbose=False)
    assert logged["val/clean_acc"] == pytest.approx(float((model.net(x).argmax(1) == y).float().mean()))


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_every_device_needs_an_image(stage: str) -> None:
    """Lightning leaves a rank without batches out, and the others wait for it in the next collective."""

    def on(rank: int) -> str:
        few: Any = {"val_size": 1} if stage in ("fit", "validate") else {"test_size": 1}
        trainer = ddp_trainer(max_epochs=1)
        with pytest.raises(ValueError, match="1 images cannot be shared by 2 devices") as error:
            getattr(trainer, stage)(Standard(plain_net()), datamodule=Few(**few))
        return str(error.value)

    remedy = "raise val_size" if stage in ("fit", "validate") else "give more images"
    told = f"1 images cannot be shared by 2 devices: set trainer.devices to at most 1, or {remedy}."
    assert run_ddp(on) == [told] * 2


@pytest.mark.parametrize("size", [-1, 1347, 9999])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"val_size must lie between 0 and 1346, got {size} of 1347 samples"):
        Digits(val_size=size).setup("fit")


def test_cifar_may_be_trained_on_whole() -> None:
    assert CIFAR10(val_size=0).val_size == 0
