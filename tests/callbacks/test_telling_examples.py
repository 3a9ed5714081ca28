"""Which examples are shown: broken ones first, the nearest of them before the others."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_robust.callbacks.telling_examples import drawn, save_telling, telling
from lightning_robust.evaluation.images import Images
from lightning_robust.evaluation.samples import Samples
from lightning_robust.evaluation.verdicts import STANDING, Verdicts


def evaluated(channels: int = 3) -> Samples:
    """Five samples, in another order than their indices 10 to 14.

    12 is wrong without an attack. "pgd" breaks 10 and 13, "fab" 13 and 14; 11 withstands both.
    """
    index = torch.tensor([12, 10, 14, 11, 13])
    y, clean = torch.zeros(5, dtype=torch.int64), torch.tensor([1, 0, 0, 0, 0])
    x = torch.rand(5, channels, 4, 4, generator=torch.Generator().manual_seed(0))
    samples = Samples(index, y, clean, checksum=index, key=index, shown=index > 0, x=Images.of(x))
    broken = {"pgd": {10: 0.3, 13: 0.2}, "fab": {13: 0.05, 14: 0.1}}
    for name, sizes in broken.items():
        verdicts = samples.verdicts[name] = Verdicts.initial(clean)
        samples.examples[name] = {}
        for row, number in enumerate(index.tolist()):
            size = sizes.get(number, 0.4)
            if number != 12:
                verdicts.size[row] = size
            verdicts.broken[row] = 0 if number in sizes else STANDING
            verdicts.predicted[row] = 2 if number in sizes else int(clean[row])
            samples.examples[name][number] = torch.stack([x[row], (x[row] + size).clamp(max=1)])
    return samples


def test_order_of_what_is_shown() -> None:
    samples = evaluated()
    assert telling(samples, "pgd", 5) == [13, 10, 11, 14, 12]
    assert telling(samples, "fab", 3) == [13, 14, 10]


def test_what_is_drawn_belongs_together() -> None:
    samples = evaluated()
    examples = drawn(samples, "fab", 2)
    assert examples is not None
    assert examples.after.tolist() == [2, 2]
    for i, index in enumerate((13, 14)):
        row = samples.index.tolist().index(index)
        assert torch.equal(examples.x[i], samples.x[row])
        assert torch.equal(examples.x_adv[i], samples.examples["fab"][index][1])


@pytest.mark.parametrize("channels", [1, 3])
def test_the_file_holds_each_sample_under_the_first_attack_that_broke_it(tmp_path: Path, channels: int) -> None:
    samples = evaluated(channels)
    save_telling(samples, ["pgd", "fab"], 4, tmp_path / "examples.npz")
    with np.load(tmp_path / "examples.npz", allow_pickle=False) as kept:
        told: dict[str, Any] = {name: kept[name] for name in kept.files}
    assert list(zip(told["index"].tolist(), told["attack"].tolist(), told["broken"].tolist(), strict=True)) == [
        (13, "pgd", True),
        (10, "pgd", True),
        (14, "fab", True),
        (11, "fab", False),
    ]
    assert told["x"].shape == (4, 4, 4, channels)
    row = samples.index.tolist().index(14)
    wanted = (samples.examples["fab"][14][1] * 255).round().movedim(0, -1).numpy()
    assert np.array_equal(told["x_adv"][2], wanted)
    assert told["size"].tolist() == pytest.approx([0.2, 0.3, 0.1, 0.4])
    largest = float((samples.examples["fab"][14][1] - samples.x[row]).abs().max())
    assert told["times"][2] == pytest.approx(0.5 / largest)
    assert told["perturbation"].max() == 255


def test_what_is_no_image_is_not_kept(tmp_path: Path) -> None:
    samples = evaluated()
    for pairs in samples.examples.values():
        for index in pairs:
            pairs[index] = pairs[index].flatten(1)
    save_telling(samples, ["pgd", "fab"], 4, tmp_path / "examples.npz")
    assert not (tmp_path / "examples.npz").exists()


def test_the_digest_of_the_images_follows_their_index() -> None:
    samples = evaluated()
    again = samples[torch.tensor([3, 1, 4, 0, 2])]
    other, moved = evaluated(), evaluated()
    other.checksum = other.checksum + 1
    moved.index = moved.index.flip(0)  # the same images at other places of the dataset
    assert samples.sha256() == again.sha256()
    assert len({samples.sha256(), other.sha256(), moved.sha256()}) == 3
