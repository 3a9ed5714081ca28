"""What the other tests stand on: ranks that hang say where, and ranks may compile whatever ran before them."""

import re
import time
from pathlib import Path

import pytest
import torch

from tests.helpers.ddp import run_ddp


def stuck_here(rank: int) -> int:
    time.sleep(600 if rank == 1 else 0)
    return rank


def test_a_rank_that_hangs_is_killed_and_says_where_it_was() -> None:
    with pytest.raises(AssertionError, match=re.escape("ranks [1] had not ended after 2 s")) as told:
        run_ddp(stuck_here, timeout=2.0)
    assert re.search(r"rank 1: .*\n.*, line \d+ in stuck_here", str(told.value))
    assert "rank 0" not in str(told.value)


@pytest.mark.slow
# the compiler's own use of torch: https://github.com/pytorch/pytorch/blob/main/torch/_inductor
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_process_that_compiled_forks_another_that_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # what was compiled before would need no compiler

    def doubled(rank: int) -> float:
        return float(torch.compile(lambda x: 2 * x + rank)(torch.ones(3)).sum())

    def on(rank: int) -> list[float]:
        return [doubled(3), *run_ddp(lambda inner: doubled(5 + inner), ranks=1, timeout=120)]

    assert run_ddp(on, ranks=1, timeout=250) == [[15.0, 21.0]]
