"""The picture of IAAT's radii."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_robust.attacks import PGD
from lightning_robust.callbacks import RadiusHistogram
from lightning_robust.callbacks import radius_histogram as module
from lightning_robust.callbacks.radius_histogram import radius_figure
from lightning_robust.defenses import IAAT, Standard
from lightning_robust.threat import Threat
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.few import Few, plain_net


def iaat() -> IAAT:
    return IAAT(plain_net(), gamma=0.03, warmup=1, attack=PGD(Threat(eps=0.1), steps=1))


def test_the_figure_counts_every_radius_and_marks_the_median() -> None:
    radii = torch.rand(101, generator=torch.Generator().manual_seed(0))
    (axes,) = radius_figure(radii, "title").axes
    assert sum(patch.get_height() for patch in axes.patches) == 101
    np.testing.assert_allclose(axes.lines[0].get_xdata(), [np.median(radii.numpy())] * 2, rtol=1e-6)
    assert axes.get_title() == "title"


@pytest.mark.slow
def test_it_draws_each_epoch_or_every_few_as_png_and_in_tensorboard(tmp_path: Path) -> None:
    for every, epochs in ((1, [0, 1, 2, 3]), (2, [1, 3])):
        logger = TensorBoardLogger(tmp_path, name="", version=f"every{every}")
        quiet_trainer(max_epochs=4, callbacks=[RadiusHistogram(every)], logger=logger).fit(iaat(), Few())
        folder = tmp_path / f"every{every}"
        assert sorted(path.name for path in folder.glob("figures/*.png")) == [f"radii-epoch{e:03d}.png" for e in epochs]
        assert imread(next(folder.glob("figures/*.png"))).std() > 0
        events = EventAccumulator(str(folder))
        events.Reload()
        assert sorted(events.Tags()["images"]) == [f"radii-epoch{e:03d}" for e in epochs]
        assert {f"train/radius_q{q}" for q in (10, 50, 90)} <= set(events.Tags()["scalars"])


def test_on_ranks_it_draws_the_radii_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    figure = radius_figure
    monkeypatch.setattr(module, "radius_figure", lambda radii, title: (drawn.append(radii), figure(radii, title))[1])

    def on(rank: int) -> Any:
        defense = iaat()
        ddp_trainer(max_epochs=2, callbacks=[RadiusHistogram()], default_root_dir=tmp_path).fit(
            defense, Few(batch_size=2)
        )
        return drawn, defense.radii.values

    (seen, final), (none, _) = run_ddp(on)
    assert (len(seen), len(none)) == (2, 0)
    assert torch.equal(seen[-1], final)


def test_a_module_without_radii_is_refused() -> None:
    with pytest.raises(TypeError, match="Standard keeps no radii to draw: RadiusHistogram is for IAAT"):
        quiet_trainer(max_epochs=1, callbacks=[RadiusHistogram()]).fit(Standard(plain_net()), Few())
    with pytest.raises(ValueError, match="every_n_epochs must be at least 1, got 0"):
        RadiusHistogram(0)
