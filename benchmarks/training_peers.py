"""A training step here and in other libraries, and as the authors wrote it: the same method, attack, net and images.

python -m benchmarks.training_peers [--authors FOLDER] [--net resnet18] [--batch_size 16] [--rounds 9]

`pip install torchattacks adversarial-robustness-toolbox robustness` brings the libraries. FOLDER holds clones of the
authors' repositories, under their names: TRADES, MART, MAIL, ST-AT, AWP.
"""

import copy
import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.common.clones import from_clone
from benchmarks.common.figures import bars
from benchmarks.common.tables import Row, required, write
from benchmarks.common.timing import WITHIN, Arm, Spread, interleave, ratio, timed
from benchmarks.common.training import STEPS, Fit, defended, sgd
from benchmarks.common.workloads import NETS, Workload, on_workload
from lightning_robust.attacks import PGD
from lightning_robust.threat import Threat
from lightning_robust.types import Batch

EPS, STEP = 8 / 255, 2 / 255
FP32, FAST = "over ours in fp32", "over ours in bf16-mixed, channels_last"
EQUAL, RECOMMENDED = 1.0, 1.8
"""How many times as long a peer is to take as ours, in fp32 (where the fastest peers make the same passes as ours) and
in the setting recommended for CPUs."""

Step: TypeAlias = Callable[[], object]
Peer: TypeAlias = Callable[[nn.Module, Batch], Step]


def plain(net: nn.Module, batch: Batch, attack: Callable[[Tensor, Tensor], Tensor]) -> Step:
    """The usual loop around an attack."""
    optimizer = sgd(net.parameters())

    def step() -> None:
        net.train()
        x_adv = attack(batch.x, batch.y)
        optimizer.zero_grad()
        torch.autograd.backward(cross_entropy(net(x_adv), batch.y))
        optimizer.step()

    return step


def _on_cpu(step: Step) -> Step:
    """Code that asks for a GPU by name, without one."""
    if torch.cuda.is_available():
        return step

    def stays() -> None:
        with patch.object(Tensor, "cuda", lambda self, *args, **kwargs: self):
            step()

    return stays


# ------------------------------------------------------------------------------------------------------- libraries


def torchattacks(net: nn.Module, batch: Batch) -> Step:
    """A loop around torchattacks' PGD."""
    return plain(net, batch, import_module("torchattacks").PGD(net, eps=EPS, alpha=STEP, steps=STEPS))


def robustness(net: nn.Module, batch: Batch) -> Step:
    """A loop around the attack of robustness's `AttackerModel`, as in its `train_model`."""

    class Lenient(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
            logits: Tensor = self.net(x)
            return logits

    none = SimpleNamespace(mean=torch.zeros(3), std=torch.ones(3))
    model = import_module("robustness.attacker").AttackerModel(Lenient(), none).train()
    settings = {"constraint": "inf", "eps": EPS, "step_size": STEP, "iterations": STEPS, "random_start": True}
    optimizer = sgd(model.parameters())

    def step() -> None:
        logits, _ = model(batch.x, batch.y, make_adv=True, use_best=False, **settings)
        optimizer.zero_grad()
        torch.autograd.backward(cross_entropy(logits, batch.y))
        optimizer.step()

    return _on_cpu(step)


def _art(net: nn.Module, batch: Batch) -> tuple[Any, np.ndarray, np.ndarray]:
    estimators, k = import_module("art.estimators.classification"), int(net(batch.x[:2]).shape[1])
    classifier = estimators.PyTorchClassifier(
        net,
        loss=nn.CrossEntropyLoss(),
        optimizer=sgd(net.parameters()),
        input_shape=tuple(batch.x.shape[1:]),
        nb_classes=k,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    return classifier, batch.x.numpy(), batch.y.numpy()


def _art_pgd(classifier: Any, batch: Batch) -> Any:
    evasion = import_module("art.attacks.evasion")
    settings = {"eps": EPS, "eps_step": STEP, "max_iter": STEPS, "num_random_init": 1, "batch_size": len(batch.x)}
    return evasion.ProjectedGradientDescent(classifier, verbose=False, **settings)


def _silent(step: Step) -> Step:
    """Without ART's progress bars."""

    def silent() -> None:
        with redirect_stderr(io.StringIO()):
            step()

    return silent


def art_at(net: nn.Module, batch: Batch) -> Step:
    """ART's trainer of adversarial training by PGD."""
    classifier, x, y = _art(net, batch)
    trainers = import_module("art.defences.trainer")
    trainer = trainers.AdversarialTrainer(classifier, _art_pgd(classifier, batch), ratio=1.0)
    return _silent(lambda: trainer.fit(x, y, batch_size=len(x), nb_epochs=1))


def art_trades(net: nn.Module, batch: Batch) -> Step:
    """ART's TRADES, whose attack ascends the cross-entropy."""
    classifier, x, y = _art(net, batch)
    trainers = import_module("art.defences.trainer")
    trainer = trainers.AdversarialTrainerTRADESPyTorch(classifier, _art_pgd(classifier, batch), beta=6.0)
    return _silent(lambda: trainer.fit(x, y, batch_size=len(x), nb_epochs=1))


def art_awp(net: nn.Module, batch: Batch) -> Step:
    """ART's AWP on adversarial training."""
    classifier, x, y = _art(net, batch)
    proxy, _, _ = _art(copy.deepcopy(net), batch)
    trainer = import_module("art.defences.trainer").AdversarialTrainerAWPPyTorch(
        classifier, proxy, _art_pgd(classifier, batch), mode="PGD", gamma=0.01, beta=6.0, warmup=0
    )
    return _silent(lambda: trainer.fit(x, y, batch_size=len(x), nb_epochs=1))


# --------------------------------------------------------------------------------------------------------- authors


def authors(
    folder: Path, repository: str, module: str, function: str, needs: Sequence[str] = (), **settings: Any
) -> Peer:
    """A loss of the authors' code, which makes its adversarial examples itself."""

    def make(net: nn.Module, batch: Batch) -> Step:
        loss = getattr(from_clone(folder / repository, module, *needs), function)
        optimizer = sgd(net.parameters())
        given = {"step_size": STEP, "epsilon": EPS, "perturb_steps": STEPS, "beta": 6.0, **settings}

        def step() -> None:
            total = loss(net, batch.x, batch.y, optimizer, **given)
            total = total[0] if isinstance(total, tuple) else total
            optimizer.zero_grad()
            torch.autograd.backward(total)
            optimizer.step()

        return _on_cpu(step)

    return make


def authors_awp(folder: Path) -> Peer:
    """The authors' perturbation of the weights, and a loop around PGD."""

    def make(net: nn.Module, batch: Batch) -> Step:
        perturbation = from_clone(folder / "AWP" / "AT_AWP", "utils_awp").AdvWeightPerturb
        proxy, optimizer = copy.deepcopy(net), sgd(net.parameters())
        adversary = perturbation(net, proxy, torch.optim.SGD(proxy.parameters(), lr=0.01), gamma=0.01)
        attack = import_module("torchattacks").PGD(net, eps=EPS, alpha=STEP, steps=STEPS)

        def step() -> None:
            net.train()
            x_adv = attack(batch.x, batch.y)
            moved = adversary.calc_awp(inputs_adv=x_adv, targets=batch.y)
            adversary.perturb(moved)
            optimizer.zero_grad()
            torch.autograd.backward(cross_entropy(net(x_adv), batch.y))
            optimizer.step()
            adversary.restore(moved)

        return step

    return make


# ------------------------------------------------------------------------------------------------------- measuring


def peers(folder: Path | None) -> dict[str, dict[str, Peer]]:
    """Of each defense those that are at hand."""
    found: dict[str, dict[str, Peer]] = {name: {} for name in ("AT", "TRADES", "MART", "MAIL", "AWP", "ST")}
    for package, module, steps in (
        ("torchattacks", "torchattacks", {"AT": torchattacks}),
        ("robustness", "robustness.attacker", {"AT": robustness}),
        ("adversarial-robustness-toolbox", "art", {"AT": art_at, "TRADES": art_trades, "AWP": art_awp}),
    ):
        try:
            import_module(module)
        except ImportError:
            print(f"{package}: left out, as {module!r} cannot be imported.")
            continue
        for defense, step in steps.items():
            found[defense][f"{package} {version(package)}"] = step
    if folder is None:
        print("The authors' code: left out; give its --authors folder.")
        return found
    found["TRADES"]["authors"] = authors(folder, "TRADES", "trades", "trades_loss")
    found["MART"]["authors"] = authors(folder, "MART", "mart", "mart_loss")
    found["MAIL"]["authors"] = authors(folder, "MAIL", "mail_loss", "mail_loss", bias=-0.5, slope=10.0, method="at")
    found["ST"]["authors"] = authors(folder, "ST-AT", "losses", "stat_loss", needs=["utils"], loss_mode="kl")
    found["AWP"]["authors"] = authors_awp(folder)
    return found


def main(
    workload: Workload,
    authors: Path | None = None,
    rounds: int = 9,
) -> None:
    """Measure on the CPU, print the table, and leave it in results/training_peers_<net>.{csv,md,png}.

    Args:
        workload: the net, the batch and the device.
        authors: folder with clones of the authors' repositories.
        rounds: all arms run once in each.
    """
    given, batch = workload.build()
    rows: list[Row] = []
    over: dict[str, Spread] = {}
    for defense, others in peers(authors).items():
        if not others:
            continue
        attack = PGD(Threat(eps=EPS), STEPS, STEP, start="uniform" if defense in ("AT", "AWP") else "normal")
        fast = defended(defense, given, attack=attack, channels_last=True)
        arms: dict[str, Arm] = {
            "ours": Fit(defended(defense, given, attack=attack), batch),
            "fast": Fit(fast, batch, "bf16-mixed"),
            **{name: timed(peer(copy.deepcopy(given), batch)) for name, peer in others.items()},
        }
        seconds = interleave(arms, rounds)  # a defense at a time: a ratio is of what ran within a minute
        for name in others:
            equal, recommended = (ratio(seconds[name], seconds[setting]) for setting in ("ours", "fast"))
            over[f"{defense}: {name}"] = equal
            row: Row = {
                "defense": defense,
                "peer": name,
                "peer's seconds": Spread.of(seconds[name]).median,
                FP32: equal.median,
                "quartiles": equal.quartiles(),
                FAST: recommended.median,
                "its quartiles": recommended.quartiles(),
            }
            rows.append(row)
    names = [f"{row['defense']}, {row['peer']}" for row in rows]
    caption = required(
        {
            f"at least {EQUAL:g} {FP32}, {WITHIN}": {
                name: spread.at_least(EQUAL) for name, spread in zip(names, over.values(), strict=True)
            },
            f"at least {RECOMMENDED} {FAST}": {
                name: float(row[FAST]) >= RECOMMENDED for name, row in zip(names, rows, strict=True)
            },
        }
    )
    pixels, classes, _ = NETS[workload.net]
    size = f"{classes} classes, batch {workload.batch_size} of 3x{pixels}x{pixels}"
    where = f"{workload.net}, {size}, PGD-{STEPS}, cpu"
    print(write(f"training_peers_{workload.net}", f"A training step in other libraries: {where}", rows, caption))
    bars(f"training_peers_{workload.net}", over, "seconds of a step over ours in fp32", 1.0)


if __name__ == "__main__":
    on_workload(main, skip={"device"})
