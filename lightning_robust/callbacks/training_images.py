"""A second pass over the training batches of an epoch, beside the training."""

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from lightning import Trainer
from torch.utils.data import DataLoader, IterableDataset


def check_repeatable(loader: Any) -> None:
    """Refuse data loaders whose batches cannot be drawn a second time without disturbing the first.

    Args:
        loader: the trainer's.

    Raises:
        ValueError: for anything but one `DataLoader` over a dataset of known length that batches by itself.
    """
    repeatable = isinstance(loader, DataLoader) and loader.batch_sampler is not None
    if not repeatable or isinstance(loader.dataset, IterableDataset):
        raise ValueError(
            "batch_norm='recompute' goes through the training images once more, for which it needs one DataLoader over "
            f"a dataset of known length, but got {type(loader).__name__}: choose 'average' or 'alias'."
        )


def training_batches(trainer: Trainer, device: torch.device) -> Iterator[Any]:
    """Yield the batches of the present epoch, on the device, from a loader of their own.

    Args:
        trainer: in fit; within its validation batches are moved as in training.
        device: the module's device.
    """
    loader: Any = trainer.train_dataloader
    check_repeatable(loader)
    again: DataLoader[Any] = DataLoader(
        loader.dataset,
        batch_sampler=loader.batch_sampler,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
    )
    most = trainer.num_training_batches
    own = {id(generator): generator for generator in (loader.generator, getattr(loader.sampler, "generator", None))}
    states = [(generator, generator.get_state()) for generator in own.values() if generator is not None]
    within_validation = trainer.validating
    progress = trainer.fit_loop.epoch_loop.batch_progress.current
    ready = progress.ready
    try:
        trainer.training = True  # data modules finish batches of training on the device
        for number, batch in enumerate(islice(again, None if math.isinf(most) else int(most))):
            progress.ready = number  # they mix each batch as the training has mixed it
            yield trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch), device)
    finally:
        progress.ready = ready
        for generator, state in states:
            generator.set_state(state)
        if within_validation:
            trainer.validating = True
