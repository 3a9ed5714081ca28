"""Global random number generators that are seeded for a while and then put back."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def torch_seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator of the CPU within a `with` block, and put it back after it.

    Args:
        seed: the seed.

    Example:
        >>> with torch_seeded(3):
        ...     a = torch.rand(2)
        >>> with torch_seeded(3):
        ...     torch.equal(a, torch.rand(2))
        True
    """
    state = torch.default_generator.get_state()  # torch.manual_seed would seed every device, which takes 1 ms
    try:
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        torch.default_generator.set_state(state)


@contextmanager
def other_generators_seeded(seed: int) -> Iterator[None]:
    """Seed Python's and NumPy's global generators within a `with` block, and put them back after it.

    Args:
        seed: seed of both, in [0, 2^32).

    Example:
        >>> with other_generators_seeded(3):
        ...     a = random.random(), float(np.random.rand())
        >>> with other_generators_seeded(3):
        ...     a == (random.random(), float(np.random.rand()))
        True
    """
    of_python = random.getstate()
    of_numpy = np.random.get_state()  # noqa: NPY002  # libraries draw from the global generator
    try:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002
