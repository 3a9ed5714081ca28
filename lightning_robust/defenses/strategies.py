"""The distributed strategies under which a defense would train wrongly, and why."""

from typing import Any

from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from lightning_robust.utils.private_apis import ddp_settings

SHARDED = (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)


def check_strategy(strategy: Any, accumulate_grad_batches: int, regularized: bool, perturbed: bool) -> None:
    """Refuse a distributed strategy under which the training would be wrong.

    Args:
        strategy: the trainer's.
        accumulate_grad_batches: the trainer's.
        regularized: whether the method differentiates input gradients.
        perturbed: whether it moves the weights within a step.

    Raises:
        ValueError: for sharded weights, with the reason, and for a static graph where gradients accumulate.
    """
    if isinstance(strategy, SHARDED):
        if regularized:
            why = "sharded weights have no second derivatives (https://github.com/pytorch/pytorch/issues/172543)"
        elif perturbed:
            why = "the perturbation is relative to the norms of whole weights, and each process has a part of them"
        else:
            why = (
                "attacks run the net several times before the backward pass, which sharded weights do not withstand "
                "(https://github.com/pytorch/pytorch/issues/136861)"
            )
        raise ValueError(f"{type(strategy).__name__} does not fit: {why}. Use ddp; checkpointing nets save memory.")
    static = isinstance(strategy, DDPStrategy) and ddp_settings(strategy).get("static_graph", False)
    if static and accumulate_grad_batches > 1:
        raise ValueError(
            "With static_graph DDP does not accumulate gradients over batches "
            "(https://github.com/pytorch/pytorch/pull/187732): leave static_graph out."
        )
