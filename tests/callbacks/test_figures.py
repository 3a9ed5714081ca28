"""The figure of adversarial examples."""

import torch

from lightning_robust.callbacks.figures import adversarial_grid


def test_perturbations_are_magnified_each_by_what_is_said_and_none_is_called_so() -> None:
    x, y = torch.full((3, 1, 2, 2), 0.5), torch.tensor([0, 1, 2])
    delta = torch.tensor([0.1, -0.25, 0.0]).view(3, 1, 1, 1) * torch.tensor([[1.0, 0.0], [0.5, 0.0]])
    figure = adversarial_grid((x, x + delta, y, y, y), "title")
    told = [axes for axes in figure.axes if axes.get_title().startswith(("times", "none"))]
    assert [axes.get_title() for axes in told] == ["times 5", "times 2", "none"]
    shown = [float(axes.images[0].get_array()[0, 0]) for axes in told]
    torch.testing.assert_close(shown, [1.0, 0.0, 0.5], rtol=0, atol=1e-3)
