"""Every method trains with every part, or refuses it with a reason; and two ranks then do what one process does.

A quarter of all pairs are tested, in which every method and every part stands;
`EXHAUSTIVE=1 pytest tests/defenses/test_combinations.py` tests all.
"""

import csv
import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.common.combinations import ALIKE, PARTS, SAME, prepared, tried
from benchmarks.common.tables import RESULTS
from benchmarks.methods import REFUSES, methods
from lightning_robust.cli.devices import fitting_ddp
from tests.helpers.ddp import ddp_trainer, quiet_trainer, run_ddp
from tests.helpers.spread import spread

TABLE = (RESULTS / "methods.csv").read_text().splitlines()
ROWS = {row["name here"].strip("`"): row for row in csv.DictReader(TABLE)}
METHODS = {name: row["recipes"].split("`")[1] for name, row in ROWS.items()}
REFUSED = {name: row[REFUSES].split(", ") for name, row in ROWS.items()}
"""What the table says of each method."""
ACROSS_RANKS = {name: PARTS[name] for name in ("EMR", "AWP", "MAIL", "averaged weights")} | {"soft labels": ALIKE}
"""Parts through which ranks could come to differ; test_every_recipe.py has accumulation."""
QUICK = {("TRADES", "EMR"), ("IAAT", "MAIL"), ("FreeAT", "accumulation")}
plain = functools.cache(tried)


def test_the_table_has_every_method() -> None:
    found = {method.kind.__name__: method.recipes[0] for method in methods()}
    assert [*found.items()] == [*METHODS.items()], (
        "Run `python -m benchmarks.methods`, which writes the table of docs/methods.md anew."
    )


@pytest.mark.parametrize(
    ("method", "part"),
    [
        pytest.param(method, part, id=f"{method}-{part}", marks=() if (method, part) in QUICK else pytest.mark.slow)
        for method, part in dict.fromkeys([*spread(METHODS, PARTS, one_in=4), *sorted(QUICK)])
        if (method, part) != ("SemiSupervised", "unlabelled images")  # which it is itself
    ],
)
def test_a_part_works_or_is_refused_with_a_reason(method: str, part: str) -> None:
    """It changes the weights, unless it is to leave them as they are: to be ignored would be a silent error."""
    outcome, without = tried(METHODS[method], part), plain(METHODS[method])
    assert (part in REFUSED[method]) == bool(outcome.refused), f"the table says otherwise: {outcome.refused or 'works'}"
    if outcome.refused:
        assert outcome.refused.endswith(".")
        assert len(outcome.refused.split()) > 5
        return
    assert math.isfinite(outcome.loss)
    assert outcome.weights.isfinite().all()
    if part in SAME:
        torch.testing.assert_close(outcome.weights, without.weights, rtol=1e-4, atol=1e-5)
    else:
        assert not torch.equal(outcome.weights, without.weights)


def test_a_part_that_were_ignored_would_be_seen() -> None:
    assert torch.equal(tried("at").weights, plain("at").weights)


def trained(recipe: str, part: Any, ranks: int) -> list[Tensor]:
    """The weights, and what is remembered of samples and classes, in double precision."""
    net = {"class_path": "tests.helpers.few.DigitsNet"}
    teacher = {**net, "init_args": {"seed": 2, "factor": 20.0}}
    defense, data, settings = prepared(recipe, part, net, teacher, batch_size=8 // ranks)
    settings["precision"] = "64-true"
    ddp: dict[str, Any] = fitting_ddp(1)._ddp_kwargs
    trainer = ddp_trainer(ranks, ddp, **settings) if ranks > 1 else quiet_trainer(**settings)
    trainer.fit(defense, data)
    memory = getattr(getattr(defense, "radii", None), "values", torch.zeros(0))
    return [*(value.detach().clone() for value in defense.net.state_dict().values()), memory]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "part"),
    [pair for pair in spread(METHODS, ACROSS_RANKS, one_in=4) if pair[0] != "IAT"],  # mixes with samples of its rank
)
@pytest.mark.filterwarnings("ignore:Grad strides do not match bucket view strides")
def test_two_ranks_equal_one_process_with_a_part(method: str, part: str) -> None:
    if part in REFUSED[method]:
        pytest.skip("refused")
    alone = trained(METHODS[method], ACROSS_RANKS[part], 1)
    for found in run_ddp(lambda rank: trained(METHODS[method], ACROSS_RANKS[part], 2)):
        torch.testing.assert_close(found, alone, rtol=1e-6, atol=1e-8)
