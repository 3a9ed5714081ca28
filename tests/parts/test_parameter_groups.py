"""Which parameters decay, by rule, by name and as recorded; the rates of layers; schedules, finders and checkpoints."""

import functools
from pathlib import Path
from typing import Any

import pytest
import timm
import timm.optim
import torch
from lightning.pytorch.callbacks import LearningRateFinder
from torch import nn

from lightning_robust.attacks import PGD
from lightning_robust.cli.main import main
from lightning_robust.defenses import AT, Defense
from lightning_robust.models import TimmModel
from lightning_robust.parts import ParameterGroups
from lightning_robust.parts.lr_schedules import CosineAnnealingLR, OneCycleLR, WarmupCosineLR
from lightning_robust.threat import Threat
from tests.defenses.test_golden_modern import MODERN
from tests.helpers.ddp import quiet_trainer
from tests.helpers.few import Few, norm_net, plain_net
from tests.helpers.foreign import loader

FACTS = MODERN["wang_facts"]


def named(names: list[str]) -> nn.Module:
    """A module with parameters of these names, each followed by its shape or not; buffers are left out."""
    module = nn.Module()
    for line in names:
        name, _, shape = line.partition(" ")
        if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            continue
        *path, last = name.split(".")
        inner = module
        for part in path:
            if not hasattr(inner, part):
                inner.add_module(part, nn.Module())
            inner = inner.get_submodule(part)
        sizes = [int(size) for size in shape.strip("[]").split(",") if size.strip()]
        inner.register_parameter(last, nn.Parameter(torch.empty(sizes, device="meta")))
    return module


def without_decay(module: nn.Module, no_decay: Any) -> set[str]:
    name_of = {id(parameter): name for name, parameter in module.named_parameters()}
    groups = ParameterGroups(no_decay)(module)
    assert sum(len(group["params"]) for group in groups) == len(name_of)
    return {name_of[id(p)] for group in groups if group.get("weight_decay") == 0 for p in group["params"]}


# --------------------------------------------------------------------------------------------------- what they recorded


@pytest.mark.parametrize("net", [name for name in FACTS if name.startswith("groups_")])
def test_wangs_groups_go_by_a_name(net: str) -> None:
    record = FACTS[net]
    names = list(dict.fromkeys([*record["decay"], *record["no_decay"], *record["decayed_biases"]]))
    if record["no_decay"]:
        assert without_decay(named(names), ["batchnorm"]) == set(record["no_decay"])
    else:  # of these nets no norm has the name, so that all of it decays
        with pytest.raises(ValueError, match="'batchnorm', which is in the name of no parameter"):
            without_decay(named(names), ["batchnorm"])


SAME_NETS = [
    (net, other)
    for net, record in FACTS.items()
    if net.startswith("groups_") and record["no_decay"]
    for other, theirs in MODERN.items()
    if other.startswith("dm_") and set(record["decay"]) <= {line.split()[0] for line in theirs.get("names", [])}
    if record["n_decay"] + record["n_no_decay"] == len(list(named(theirs["names"]).parameters()))
]


@pytest.mark.parametrize(("net", "other"), SAME_NETS)
def test_wangs_groups_are_as_large_as_theirs(net: str, other: str) -> None:
    module = named(MODERN[other]["names"])
    spared = without_decay(module, ["batchnorm"])
    assert len(spared) == FACTS[net]["n_no_decay"]
    assert len(list(module.parameters())) - len(spared) == FACTS[net]["n_decay"]


@pytest.mark.parametrize("net", [n for n in MODERN if n.startswith("convstem_") and "n_no_decay" in MODERN[n]])
def test_singhs_groups(net: str) -> None:
    record = MODERN[net]
    module = named(record["names"])
    rule = "one_dimensional" if not record["one_dim_decayed"] else ["bn", ".bias"]
    if isinstance(rule, list) and not any("bn" in name for name in record["names"]):
        rule.remove("bn")
    spared = without_decay(module, rule)
    parameters = dict(module.named_parameters())
    assert (len(spared), len(parameters) - len(spared)) == (record["n_no_decay"], record["n_decay"])
    decayed = {name for name, parameter in parameters.items() if parameter.dim() <= 1 and name not in spared}
    assert {name for name in decayed if not name.endswith(tuple(record["one_dim_decayed"]))} == set()
    assert bool(decayed) == bool(record["one_dim_decayed"])


# ---------------------------------------------------------------------------------------------------------------- rules


class Scaled(nn.Module):
    """With a norm of its own class, a layer scale and biases of other names."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2)
        self.norm = FooNorm()
        self.rms = nn.RMSNorm(4)
        self.gamma = nn.Parameter(torch.ones(4))
        self.unbiased = nn.Parameter(torch.ones(2, 4))


class FooNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4, 1))


def test_norms_and_biases() -> None:
    spared = without_decay(Scaled(), "norm_and_bias")
    assert spared == {"attention.in_proj_bias", "attention.out_proj.bias", "norm.scale", "rms.weight"}
    assert without_decay(Scaled(), "one_dimensional") == spared - {"norm.scale"} | {"gamma"}


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "convnext_atto"])
def test_one_dimensional_is_timms_rule(name: str) -> None:
    net = timm.create_model(name, num_classes=3)
    theirs = timm.optim.param_groups_weight_decay(net, 0.1)
    name_of = {id(parameter): n for n, parameter in net.named_parameters()}
    assert without_decay(net, "one_dimensional") == {
        name_of[id(p)] for group in theirs if group["weight_decay"] == 0 for p in group["params"]
    }


def test_frozen_parameters_are_in_no_group() -> None:
    net = norm_net()
    net[1].requires_grad_(False)
    groups = ParameterGroups("norm_and_bias")(net)
    assert [len(group["params"]) for group in groups] == [3, 1]


def at(net: nn.Module | None = None, **settings: Any) -> Defense:
    sgd = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.5)
    return AT(net or norm_net(), attack=PGD(Threat(eps=0.1), steps=1), **{"optimizer": sgd, **settings})


def test_only_the_spared_keep_their_size() -> None:
    """A step along a gradient of 0 shows the decay alone."""
    module = at(parameter_groups=ParameterGroups("norm_and_bias"))
    before = {name: value.clone() for name, value in module.named_parameters()}
    optimizer = module.configure_optimizers()
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, value in module.named_parameters():
        spared = name in {"net.0.weight", "net.0.bias", "net.1.bias", "net.4.bias"}
        torch.testing.assert_close(value, before[name] * (1 if spared else 1 - 0.1 * 0.5))


def test_without_groups_the_optimizer_has_one() -> None:
    (group,) = at().configure_optimizers().param_groups
    assert "rate_factor" not in group


# -------------------------------------------------------------------------------------------------------- layers' rates


def vit() -> TimmModel:
    return TimmModel("vit_tiny_patch16_224", 3, options={"img_size": 16, "patch_size": 8, "depth": 2}, image_size=16)


def test_layers_are_timms() -> None:
    net = vit()
    theirs = timm.optim.param_groups_layer_decay(net.net, 0.5, layer_decay=0.7)
    module = at(net, parameter_groups=ParameterGroups("one_dimensional", layer_decay=0.7))
    groups = module.configure_optimizers().param_groups
    ours = {id(p): (group["lr"] / 0.1, group["weight_decay"]) for group in groups for p in group["params"]}
    for group in theirs:
        for parameter in group["params"]:
            assert ours[id(parameter)] == pytest.approx((group["lr_scale"], group["weight_decay"]))
    # embeddings and the stem, two blocks, the last norm and the head
    assert sorted({rate for rate, _ in ours.values()}) == pytest.approx([0.7**3, 0.7**2, 0.7, 1])


@pytest.mark.parametrize(
    "scheduler", [CosineAnnealingLR, functools.partial(WarmupCosineLR, start_factor=1.0, eta_min=1e-3)]
)
def test_schedules_and_batch_sizes_keep_the_ratios(scheduler: Any) -> None:
    seen: list[list[float]] = []

    class Told(AT):
        def on_train_epoch_start(self) -> None:
            seen.append([group["lr"] for group in self.trainer.optimizers[0].param_groups])

    module = Told(
        vit(),
        attack=PGD(Threat(eps=0.1), steps=1),
        parameter_groups=ParameterGroups(layer_decay=0.5),
        scheduler=scheduler,
        base_batch_size=2,
    )
    x = torch.utils.data.TensorDataset(torch.rand(8, 3, 16, 16), torch.arange(8) % 3)

    class Data(Few):
        num_classes = 3

        def train_data(self, augment: bool) -> Any:
            return x

    quiet_trainer(max_epochs=3, limit_val_batches=0).fit(module, Data(batch_size=4))
    ratios = [[rate / max(rates) for rate in rates] for rates in seen]
    assert all(ratio == pytest.approx([0.125, 0.25, 0.5, 1], rel=1e-12) for ratio in ratios)
    assert max(seen[0]) == pytest.approx(0.2)
    assert max(seen[1]) == pytest.approx(0.15, abs=1e-3)


def test_the_rate_of_the_finder_is_that_of_the_last_layer() -> None:
    module = at(vit(), parameter_groups=ParameterGroups(layer_decay=0.5))
    module.lr = 0.3
    rates = [group["lr"] for group in module.configure_optimizers().param_groups]
    assert rates == pytest.approx([0.3 / 8, 0.3 / 4, 0.3 / 2, 0.3])


@pytest.mark.parametrize("layers", [False, True])
def test_the_finder_runs_with_groups(layers: bool) -> None:
    groups = ParameterGroups("norm_and_bias", layer_decay=0.5 if layers else None)
    module = at(vit(), parameter_groups=groups)
    finder = LearningRateFinder(num_training_steps=14, min_lr=1e-4, max_lr=1.0)
    trainer = quiet_trainer(max_epochs=1, callbacks=[finder], num_sanity_val_steps=0)
    trainer.fit(module, loader(64, channels=3, size=16))
    assert module.lr is not None
    rates = {group["lr"] for group in trainer.optimizers[0].param_groups}
    assert sorted(rates) == pytest.approx([module.lr * f for f in ((0.125, 0.25, 0.5, 1) if layers else (1,))])


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"no_decay": "norms"}, "Unknown no_decay 'norms': choose norm_and_bias or one_dimensional"),
        ({"layer_decay": 0.0}, r"layer_decay must be in \(0, 1\], got 0.0"),
    ],
)
def test_impossible_groups_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ParameterGroups(**settings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"parameter_groups": ParameterGroups(layer_decay=0.5)}, "the net is none of timm's"),
        (
            {
                "parameter_groups": ParameterGroups("norm_and_bias"),
                "optimizer": lambda params: torch.optim.LBFGS([p for g in params for p in g["params"]]),
            },
            "LBFGS has no weight decay: leave no_decay out",
        ),
        (
            {
                "net": vit(),
                "parameter_groups": ParameterGroups(layer_decay=0.5),
                "scheduler": lambda o: OneCycleLR(o, 0.1, total_steps=4),
            },
            "OneCycleLR sets rates of its own, the same for all layers",
        ),
        (
            {
                "net": vit(),
                "parameter_groups": ParameterGroups(layer_decay=0.5),
                "scheduler": lambda o: CosineAnnealingLR(o, T_max=4, eta_min=1e-5),
            },
            "CosineAnnealingLR's eta_min is the same for all layers",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(settings: dict[str, Any], told: str) -> None:
    module = at(settings.pop("net", None), **settings)
    module.trainer = quiet_trainer()
    with pytest.raises(ValueError, match=told):
        module.configure_optimizers()


# ---------------------------------------------------------------------------------------------------------- checkpoints

GROUPED = ParameterGroups("norm_and_bias")


def saved(folder: Path, groups: ParameterGroups | None, until: int = 1, ckpt: Path | None = None) -> Any:
    module = at(plain_net(), parameter_groups=groups)
    trainer = quiet_trainer(max_epochs=until, limit_val_batches=0)
    trainer.fit(module, Few(n=12, seed=1), ckpt_path=None if ckpt is None else str(ckpt))
    trainer.save_checkpoint(folder / f"{until}.ckpt")
    return [value.clone() for value in module.state_dict().values()]


@pytest.mark.parametrize(("before", "after"), [(None, GROUPED), (GROUPED, None), (GROUPED, ParameterGroups(["bias"]))])
def test_a_run_goes_on_with_its_own_groups_alone(before: Any, after: Any, tmp_path: Path) -> None:
    saved(tmp_path, before)
    if before and after:  # here the same
        saved(tmp_path, after, 2, tmp_path / "1.ckpt")
        return
    with pytest.raises(ValueError, match=r"has groups of \[.*\] parameters, but this run's of \[.*\]: resume"):
        saved(tmp_path, after, 2, tmp_path / "1.ckpt")
    AT.load_from_checkpoint(tmp_path / "1.ckpt", net=plain_net(), optimizer=None)  # to test it


def test_a_resumed_run_ends_as_one_that_never_stopped(tmp_path: Path) -> None:
    whole = saved(tmp_path, GROUPED, 3)
    saved(tmp_path, GROUPED, 1)
    rest = saved(tmp_path, GROUPED, 3, tmp_path / "1.ckpt")
    assert all(torch.equal(*pair) for pair in zip(whole, rest, strict=True))


def test_a_checkpoint_keeps_the_groups(tmp_path: Path) -> None:
    saved(tmp_path, ParameterGroups(["weight"]))
    loaded = AT.load_from_checkpoint(tmp_path / "1.ckpt", net=plain_net(), optimizer=torch.optim.SGD, weights_only=True)
    assert [group["weight_decay"] for group in loaded.configure_optimizers().param_groups] == [0.0, 0.0]
    assert [len(group["params"]) for group in loaded.configure_optimizers().param_groups] == [2, 2]


@pytest.mark.slow
def test_a_recipe_sets_them(tmp_path: Path) -> None:
    few = ["--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path}", "--data.batch_size=32"]
    few += ["--trainer.enable_progress_bar=false", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1"]
    few += ["--evaluation.figure_samples=0", "--evaluation.check_samples=0", "--trainer.max_epochs=1"]
    main(["fit", "--config", "digits/at", *few, "--model.parameter_groups.no_decay=norm_and_bias"])
    (config,), (last,) = tmp_path.rglob("config.yaml"), tmp_path.rglob("last.ckpt")
    groups = torch.load(last, weights_only=True)["optimizer_states"][0]["param_groups"]
    assert sorted(group["weight_decay"] > 0 for group in groups) == [False, True]
    main(["test", "--config", str(config), "--ckpt_path", str(last), *few, "--trainer.limit_test_batches=1"])
    main(["fit", "--config", str(config), "--ckpt_path", str(last), *few, "--trainer.max_epochs=2"])
    other = ["--model.parameter_groups.no_decay=[.bias]", f"--trainer.default_root_dir={tmp_path / 'other'}"]
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(config), "--ckpt_path", str(last), *few, *other, "--trainer.max_epochs=2"])
