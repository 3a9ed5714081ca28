"""Shared set-up: shapes are checked at run time, and every test starts from, and leaves, the same global state."""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["OMP_NUM_THREADS"] = "1"  # nets so small are slower with more threads, and round otherwise
# the compiler's pool of threads does not survive a fork (torch renews its pool of processes alone): a rank forked after
# a test that compiled would wait for it for ever
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"

from collections.abc import Iterator

import hypothesis

# typing keeps the first of equal unions: after foolbox's `float | int`, Lightning's `int | float` would read 1 as 100 %
import lightning  # noqa: F401
import pytest
import rich
import torch
from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

check_types = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is welcome where a float is asked for

# before anything imports them: their annotations are checked on every call
install_import_hook(
    [f"lightning_robust.{name}" for name in ("threat", "runtime.rng", "losses")], f"{__name__}.check_types"
)

hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=50)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def same_global_state() -> Iterator[None]:
    os.environ.pop("PL_GLOBAL_SEED", None)
    rich.reconfigure()  # the console of the process keeps the environment, thus the colours, of the test that made it
    before = (torch.get_default_dtype(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    os.environ.pop("PL_GLOBAL_SEED", None)
    after = (torch.get_default_dtype(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled())
    torch.set_default_dtype(before[0])
    torch.set_grad_enabled(before[1])
    torch.use_deterministic_algorithms(before[2])
    assert after == before, "the test left torch's global state changed"


# with more threads, these small tensors spend most of their time waiting for the threads to meet
torch.set_num_threads(1)
# autograd starts its threads in the first backward pass: if that is a compiled net's, no rank can be forked afterwards
torch.ones((), requires_grad=True).backward()
