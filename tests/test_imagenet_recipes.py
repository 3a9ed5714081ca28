"""ImageNet's recipes over real files on two ranks, killed, and resumed on one."""

from pathlib import Path

import pytest
import torch

from tests.helpers.files import write
from tests.helpers.launch import finish, launch, named

CONFIGS = Path(__file__).parent.parent / "configs" / "imagenet"
N, VAL = 2000, 1000
QUICK = [
    *("--trainer.max_epochs=2", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1"),
    *("--data.batch_size=2", f"--data.val_size={VAL}", "--data.num_workers=0", "--trainer.accelerator=cpu"),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--evaluation.figure_samples=0"),
]
NARROW = '--model.net.init_args.options={"width_per_group": 2}'
SHALLOW = '--model.net.init_args.options={"dims": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}'


@pytest.mark.slow
@pytest.mark.parametrize("method", ["at", "iaat", "st", "at_convnext_t"])
def test_killed_on_two_ranks_and_resumed_on_one(method: str, tmp_path: Path) -> None:
    write("ImageNet", tmp_path, classes=1000, per_class=N // 1000, test_per_class=1)
    recipe = ["fit", "--config", str(CONFIGS / f"{method}.yaml"), *QUICK, SHALLOW if "convnext" in method else NARROW]
    killed = launch(tmp_path, named("imagenet"), [*recipe, "--trainer.devices=2", "dies", "1", "0"])
    output, _ = killed.communicate(timeout=300)
    assert killed.returncode != 0
    assert (tmp_path / "died").exists(), output[-4000:]
    (last,) = tmp_path.rglob("last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == 2
    alone = ["--nnodes=1", "--nproc_per_node=1", *named("alone")[2:]]
    finish(launch(tmp_path, alone, [*recipe, "--trainer.devices=1", "--ckpt_path", str(last)]))
    found, weights, radii, folder = torch.load(tmp_path / "fit-0.pt", weights_only=True)
    assert 0 < found["train/loss"] < 1e3
    assert all(value.isfinite().all() for value in weights.values())
    assert len(radii) == (N - VAL if method == "iaat" else 0)
    assert Path(tmp_path, folder).resolve() == last.parents[1].resolve()  # it goes on in its own folder
    assert torch.load(last, weights_only=True)["global_step"] == 4
