import pytest
import torch

from lightning_robust.schedules import Linear, PiecewiseConstant, StepDecay


def test_steps_equals_torchs_multi_step_rate():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5, 6], gamma=0.5)
    ours = StepDecay(0.4, [2, 5, 6], 0.5)
    for epoch in range(9):
        assert ours(epoch) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


def test_steps_without_milestones_is_constant():
    assert [StepDecay(0.3)(epoch) for epoch in (0, 100)] == [0.3, 0.3]


@pytest.mark.parametrize("milestones", [[3, 2], [3, 3]])
def test_steps_refuses_milestones_that_do_not_increase(milestones):
    with pytest.raises(ValueError, match="Milestones must increase, got"):
        StepDecay(1.0, milestones)


def test_linear_goes_straight_to_its_end_and_stays():
    assert [Linear(2, 8, 3)(epoch) for epoch in range(5)] == [2, 4, 6, 8, 8]
    assert Linear(0, "8/255", 2)(1) == pytest.approx(4 / 255)
    with pytest.raises(ValueError, match="epochs must be >= 1, got 0"):
        Linear(0, 1, 0)


def test_stages_change_at_their_milestones():
    assert [PiecewiseConstant([128, 192, 224], [2, 3])(epoch) for epoch in range(5)] == [128, 128, 192, 224, 224]
    assert PiecewiseConstant(["1/255"], [])(7) == 1 / 255
    for values, milestones in (([1, 2], []), ([1], [1]), ([1, 2, 3], [2, 2])):
        with pytest.raises(ValueError, match="PiecewiseConstant needs increasing milestones and one value more"):
            PiecewiseConstant(values, milestones)
