"""The recipes with generated images, averaged weights and mixed images have the hyper-parameters of their sources.

The table was typed from those sources (owner/name@commit in each file's header), not from the files.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_robust.cli.main import main
from lightning_robust.types import to_float
from tests.defenses.test_golden import FOLDER
from tests.helpers.files import checksums_of
from tests.helpers.recipe_rates import built, rates
from tests.test_configs import QUICKLY, prepare

CONFIGS = Path(__file__).parent.parent / "configs"
MODERN: dict[str, Any] = torch.load(FOLDER / "modern.pt", weights_only=True)


def flat(value: Any, place: str = "") -> dict[str, Any]:
    """Every setting by its place, without `init_args`; what a class is called stands at the place of the class."""
    if isinstance(value, list) and all(isinstance(v, dict) and "class_path" in v for v in value):
        value = {v["class_path"]: v.get("init_args", {}) for v in value}
    if not isinstance(value, dict):
        return {place: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        if key == "class_path":
            found[place] = inner
        else:
            found |= flat(inner, place if key == "init_args" else f"{place}.{key}".lstrip("."))
    return found


def prefixed(place: str, **settings: Any) -> dict[str, Any]:
    return {f"{place}.{name}": value for name, value in settings.items()}


AVERAGED = "trainer.callbacks.AveragedWeights"
FAIR = "trainer.callbacks.FairAveragedWeights"
ATTACK = "model.attack"
# wzekai99/DM-Improves-AT@b390f25; those of 20 million images: batch, epochs and share of the weights' publication
ONE_MILLION = {"trainer.max_epochs": 400, "data.batch_size": 512, "data.fraction": 0.7}
TWENTY_MILLION = {"trainer.max_epochs": 2400, "data.batch_size": 2048, "data.fraction": 0.8}
WANG = {
    "model": "TRADES",
    "model.beta": 5,
    "model.label_smoothing": 0.1,
    "model.attack_bn": "batch",
    **prefixed(ATTACK, steps=10, step_size="2/255", start=None),
    **prefixed("model.attack.threat", norm="linf", eps="8/255"),
    "model.optimizer": "SGD",
    **prefixed("model.optimizer", lr=0.2, momentum=0.9, nesterov=True, weight_decay=5e-4),
    "model.parameter_groups.no_decay": ["bn"],
    "model.scheduler": "OneCycleLR",
    **prefixed("model.scheduler", max_lr=0.2, pct_start=0.025),
    "model.scheduler_interval": None,
    **prefixed(AVERAGED, decay=0.995, ramp=True, start=0.025, batch_norm="alias"),
    **prefixed("trainer.callbacks.BatchNormMomentum", momentum=0.01, first=1.0),
    "data.epoch_size": 50000,
    "data.val_size": 1024,
    **prefixed("evaluation.fit_attacks.pgd40", steps=40, loss="margin"),
}
WRN28 = {
    "model.net": "WideResNet",
    **prefixed("model.net", depth=28, widen_factor=10, activation="silu", padding="same"),
}
RN18 = {
    "model.net": "PreActResNet",
    **prefixed("model.net", depth=18, activation="silu", padding="same", shortcut="conv3x3"),
}
MIXED = {
    **prefixed("data.mixing", mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1, prob=None, switch_prob=None),
    "data.augmentation.TimmRandAugment.config": "rand-m9-mstd0.5-inc1",
    "data.augmentation.RandomErasing.p": 0.25,
    "data.augmentation.ColorJitter.brightness": None,  # timm leaves it out beside RandAugment
}
FOUR = prefixed("model.attack.threat", norm="linf", eps="4/255")
# nmndeep/revisiting-at@d7166c0
SINGH = {
    "model": "AT",
    "model.net.stem": "conv",
    "model.net.mean": [0, 0, 0],
    "model.net.std": [1, 1, 1],
    ATTACK: "TrainingAPGD",
    **prefixed(ATTACK, steps=2, start=None),
    **FOUR,
    "model.label_smoothing": None,
    "model.optimizer": "AdamW",
    **prefixed("model.optimizer", lr=1e-3, betas=[0.9, 0.95], weight_decay=0.05),
    "model.scheduler": "WarmupCosineLR",
    "model.scheduler_interval": "step",
    **prefixed("model.scheduler", start_factor=1e-4, eta_min=5e-6),
    "data.batch_size": 80,
    **prefixed(AVERAGED, decay=0.9999),
    **MIXED,
}
CONVNEXT = {"model.net.name": "convnext_tiny", "model.parameter_groups.no_decay": [".bias"]}
VIT = {"model.net.name": "vit_small_patch16_224", "model.parameter_groups.no_decay": "one_dimensional"}
LONG, SHORT = {"trainer.max_epochs": 300}, {"trainer.max_epochs": 50, "model.scheduler.warmup": 0.2}
# thu-ml/ares@306e35f
ARES = {
    "model": "AT",
    ATTACK: "PGD",
    **prefixed(ATTACK, steps=3, step_size=8 / 255 / 3, start=None),
    **FOUR,
    **prefixed("trainer.callbacks.AttackStrength.step_size", start=0, end=8 / 255 / 3, epochs=5),
    "model.base_batch_size": 512,
    "model.optimizer": "AdamW",
    **prefixed("model.optimizer", lr=5e-4, weight_decay=0.05),
    "model.parameter_groups.no_decay": "one_dimensional",
    **prefixed("model.scheduler", start_factor=1e-6 / 5e-4, eta_min=1e-5),
    "trainer.max_epochs": 300,
    **prefixed(AVERAGED, decay=0.9998),
    "model.net.mean": [0.485, 0.456, 0.406],
    "model.net.std": [0.229, 0.224, 0.225],
    **MIXED,
}
# zjfheart, both repositories: 32 of 34 layers are counted
ZHANG = {
    "model.net": "WideResNet",
    **prefixed("model.net", depth=34, widen_factor=10),
    **prefixed(ATTACK, steps=10, step_size=0.007, start=None),
    **prefixed("model.attack.threat", norm="linf", eps=0.031),
    "model.attack_bn": None,
    **prefixed("model.optimizer", lr=0.1, momentum=0.9, nesterov=None, weight_decay=2e-4),
    **prefixed(
        "model.scheduler", milestones=[0, 59, 59, 89, 89, 109, 109], factors=[1, 1, 0.1, 0.1, 0.01, 0.01, 0.005]
    ),
    "trainer.max_epochs": 120,
    "data.batch_size": 128,
}
LBGAT = {  # dvlab-research/LBGAT@f7f33f0
    "model": "LBGAT",
    "model.net": "WideResNet",
    **prefixed("model.net", depth=34, widen_factor=10),
    **prefixed("model.teacher", name="resnet18", small_images=True),
    **prefixed(ATTACK, steps=10, step_size=0.007, start="normal"),
    **prefixed("model.attack.threat", norm="linf", eps=0.031),
    **prefixed("model.optimizer", lr=0.1, momentum=0.9, nesterov=None, weight_decay=2e-4),
    "trainer.max_epochs": 100,
    "data.batch_size": 128,
}
TAU = "trainer.callbacks.AttackStrength.tau"
FRIENDLY = {ATTACK: "FriendlyPGD", TAU: "PiecewiseConstant"}
# imrahulr/hat@3177a4f
RADE = {
    **prefixed("model.net", name="resnet18", small_images=True),
    **prefixed("model.attack.threat", norm="linf", eps="8/255"),
    "model.attack.step_size": "2/255",
    **prefixed("model.optimizer", lr=0.21, momentum=0.9, nesterov=True, weight_decay=5e-4),
    **prefixed("model.scheduler", max_lr=0.21, pct_start=0.25),
    "trainer.max_epochs": 50,
    "data.batch_size": 128,
}
# tml-epfl/understanding-fast-adv-training@ceed494
ALIGNED = {
    "model": "AT",
    "model.net": "PreActResNet",
    "model.net.depth": 18,
    **prefixed(ATTACK, steps=1, step_size=1.25 * 8 / 255, start="none"),
    **prefixed("model.attack.threat", norm="linf", eps="8/255"),
    "model.attack_bn": "train",
    "model.regularizers": "GradAlign",
    "model.regularizers.bn": "train",
    **prefixed("model.optimizer", momentum=0.9, weight_decay=5e-4),
    **prefixed("model.scheduler", milestones=[0, 0.4, 1], factors=[0, 1, 0]),
    "model.scheduler_interval": "step",
    "data.batch_size": 128,
}
# ShawnXYang/AT_HE@dad6a41
WD = "model.optimizer.weight_decay"
PANG = {
    "model.net": "Hypersphere",
    "model.net.net": "WideResNet",
    **prefixed("model.net.net", depth=34, widen_factor=10),
    **prefixed(ATTACK, steps=10, step_size=0.007, start="normal"),
    **prefixed("model.attack.threat", norm="linf", eps=0.031),
    "model.attack_bn": None,
    **prefixed("model.optimizer", lr=0.1, momentum=0.9, nesterov=None),
    **prefixed("model.scheduler", milestones=[74], gamma=0.1),
    "trainer.max_epochs": 77,
    "data.batch_size": 128,
}
# SamsungLabs/ASAM@dc9b513
KWON = {
    "model": "Standard",
    "model.net": "WideResNet",
    **prefixed("model.net", depth=28, widen_factor=10),
    "model.label_smoothing": 0.1,
    **prefixed("model.optimizer", lr=0.1, momentum=0.9, nesterov=None, weight_decay=5e-4),
    "model.scheduler": "CosineAnnealingLR",
    "trainer.max_epochs": 200,
    "data.batch_size": 128,
}
# locuslab/robust_union@ef34194
UNION = {
    "model.net": "PreActResNet",
    "model.net.depth": 18,
    **prefixed(f"{ATTACK}.attacks.l1", steps=50, step_size=1.0, walls=True),
    **prefixed(f"{ATTACK}.attacks.l1.threat", norm="l1", eps=12),
    **prefixed(f"{ATTACK}.attacks.l2", steps=50, step_size=0.05, start="none"),
    **prefixed(f"{ATTACK}.attacks.l2.threat", norm="l2", eps=0.3),
    **prefixed(f"{ATTACK}.attacks.linf.threat", norm="linf", eps=0.03),
    "model.attack_bn": "train",
    **prefixed("model.optimizer", lr=0.1, momentum=0.9, weight_decay=5e-4),
    **prefixed("model.scheduler", milestones=[0, 0.4, 0.8, 1], factors=[0, 1, 0.05, 0]),
    "trainer.max_epochs": 50,
    "data.batch_size": 128,
}
LINF = f"{ATTACK}.attacks.linf"
MOVE = "model.weight_perturbation"
DKL = {  # jiequancui/DKL@c5e8ad2
    "model": "IKL",
    "model.net": "WideResNet",
    **prefixed("model.net", depth=34, widen_factor=10),
    **prefixed(ATTACK, steps=5, step_size="4/255", start="normal"),
    **prefixed("model.attack.threat", norm="linf", eps="8/255"),
    **prefixed("model", alpha=4, beta=20, label_smoothing=None),
    **prefixed("trainer.callbacks.AttackStrength.eps", start=1 / 200, end=1, epochs=199),
    "trainer.callbacks.AttackStrength.relative": True,
    **prefixed(AVERAGED, decay=0.9, every="epoch"),
    **prefixed("model.weight_perturbation", gamma=0.005, start_epoch=9, restore="after_step"),
    **prefixed("model.optimizer", lr=0.2, momentum=0.9, nesterov=None, weight_decay=5e-4),
    "model.scheduler": "CosineAnnealingLR",
    "trainer.max_epochs": 200,
    "data.batch_size": 128,
}
CFA = {  # PKU-ML/CFA@071f333, and section 5.1 of the paper
    "model.net": "PreActResNet",
    "model.net.depth": 18,
    **prefixed(ATTACK, steps=10, step_size="2/255"),
    **prefixed("model.attack.threat", norm="linf", eps="8/255"),
    **prefixed("model.optimizer", lr=0.1, momentum=0.9, nesterov=None, weight_decay=5e-4),
    **prefixed("model.scheduler", milestones=[100, 150], gamma=0.1),
    **prefixed(FAIR, decay=0.85, start_epoch=50),
    "model.begin": 10,
    "trainer.max_epochs": 200,
    "data.batch_size": 128,
}
XIE = {  # facebookresearch/ImageNet-Adversarial-Training@1ad68f0
    "model": "AT",
    **prefixed(ATTACK, steps=30, step_size="1/255", targeted=True, random_targets=1000, clean_start=0.2),
    **prefixed("model.attack.threat", norm="linf", eps="16/255"),
    "model.label_smoothing": 0.1,
    "model.base_batch_size": 256,
    **prefixed("model.optimizer", lr=0.1, momentum=0.9, weight_decay=1e-4),
    "model.parameter_groups.no_decay": "norm_and_bias",
    **prefixed("model.scheduler", milestones=[35, 70, 95], gamma=0.1),
    "trainer.max_epochs": 110,
    "data.batch_size": 32,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "cifar10/cfa": {
        **CFA,
        **prefixed("model", beta=6, lambda_1=0.3, lambda_2=0.5),
        "model.attack.start": "normal",
        f"{FAIR}.threshold": 0.24,
    },
    "cifar10/cfa_at": {
        **CFA,
        **prefixed("model", lambda_1=0.5, attack_bn="train"),
        "model.attack.start": None,
        f"{FAIR}.threshold": 0.2,
    },
    "cifar10/ikl": {**DKL, **prefixed("model", temperature=4, gamma=None, ascend=None)},
    "cifar100/ikl": {**DKL, **prefixed("model", temperature=4, gamma=None, ascend="loss")},
    "cifar10/gkl": {**DKL, **prefixed("model", temperature=1, gamma=0.2, ascend=None)},
    "cifar100/gkl": {**DKL, **prefixed("model", temperature=1, gamma=0.4, ascend="loss")},
    "cifar10/mma": {  # BorealisAI/mma_training@328e2e5
        "model": "MMA",
        **prefixed("model.net", depth=28, widen_factor=4),
        **prefixed("model", hinge=0.0471, min_radius=0.005, clean_weight=1 / 3, search_steps=None, search_bn="train"),
        "model.clamp": False,
        **prefixed(ATTACK, steps=10, step_size=None, start=None),
        **prefixed("model.optimizer", lr=0.3, momentum=0.9, nesterov=None, weight_decay=2e-4),
        "model.scheduler_interval": "step",
        "trainer.max_epochs": 142,
        **prefixed("data", batch_size=128, val_size=5000),
    },
    "cifar100/lbgat": {**LBGAT, "model.beta": 6},
    "cifar10/lbgat": {**LBGAT, "model.beta": 0},
    "cifar10/msd": {**UNION, "model": "AT", ATTACK: "MSD", **prefixed(LINF, steps=50, step_size=0.003)},
    "cifar10/max": {**UNION, "model": "AT", ATTACK: "WorstOf", **prefixed(LINF, steps=40, step_size=0.005)},
    "cifar10/avg": {**UNION, "model": "AVG", ATTACK: "WorstOf", **prefixed(LINF, steps=40, step_size=0.003)},
    "cifar10/eat": {  # fra31/robust-finetuning@0201a49
        "model": "EAT",
        f"{ATTACK}.attacks.linf": "TrainingAPGD",
        f"{ATTACK}.attacks.linf.threat.eps": "8/255",
        f"{ATTACK}.attacks.l1": "TrainingAPGD",
        f"{ATTACK}.attacks.l1.threat.eps": 12,
        **prefixed("model.optimizer", lr=0.01, momentum=0.9, weight_decay=5e-4),
        **prefixed("model.scheduler", milestones=[0.333333, 0.666667], gamma=0.1),
        "trainer.max_epochs": 20,
        "data.batch_size": 128,
    },
    "cifar10/sam": {**KWON, MOVE: "SAM", f"{MOVE}.rho": 0.05},
    "cifar100/sam": {**KWON, MOVE: "SAM", f"{MOVE}.rho": 0.1},
    "cifar10/asam": {**KWON, MOVE: "ASAM", **prefixed(MOVE, rho=0.5, eta=0.0)},
    "cifar100/asam": {**KWON, MOVE: "ASAM", **prefixed(MOVE, rho=1.0, eta=0.0)},
    "cifar10/trades_generated": {**WANG, **WRN28, **ONE_MILLION, "data.labelled": "CIFAR10"},
    "cifar10/trades_generated_20m": {**WANG, **WRN28, **TWENTY_MILLION, "data.labelled": "CIFAR10"},
    "cifar10/trades_generated_rn18": {**WANG, **RN18, **ONE_MILLION, "data.labelled": "CIFAR10"},
    "cifar10/trades_generated_20m_rn18": {**WANG, **RN18, **TWENTY_MILLION, "data.labelled": "CIFAR10"},
    "cifar100/trades_generated": {**WANG, **WRN28, **ONE_MILLION, "data.labelled": "CIFAR100"},
    "cifar100/trades_generated_20m": {**WANG, **WRN28, **TWENTY_MILLION, "data.labelled": "CIFAR100"},
    "cifar100/trades_generated_rn18": {**WANG, **RN18, **ONE_MILLION, "data.labelled": "CIFAR100"},
    "cifar100/trades_generated_20m_rn18": {**WANG, **RN18, **TWENTY_MILLION, "data.labelled": "CIFAR100"},
    "cifar10/score": {  # P2333/SCORE@e82f442
        **WANG,
        **WRN28,
        **ONE_MILLION,
        "model": "SCORE",
        "model.beta": 3,
        "model.clip": None,
        "model.clipped": None,
        "model.label_smoothing": None,
        "data.labelled": "CIFAR10",
    },
    "cifar10/gairat": {  # zjfheart/Geometry-aware-Instance-reweighted-Adversarial-Training@16813b5
        **ZHANG,
        "model": "GAIRAT",
        **prefixed("model", shift=-1, function=None, start_epoch=59),
    },
    "cifar10/fat": {
        **ZHANG,
        **FRIENDLY,
        "model": "AT",
        "model.attack.noise": 0.001,
        **prefixed(TAU, values=[0, 1, 2], milestones=[50, 90]),
    },
    "cifar10/fat_trades": {
        **ZHANG,
        **FRIENDLY,
        "model": "TRADES",
        "model.beta": 6,
        **prefixed(ATTACK, start="normal", noise=None),
        **prefixed(TAU, values=[0, 1, 2, 3], milestones=[30, 50, 70]),
        **prefixed("model.scheduler", milestones=[74], gamma=0.1, factors=None),
        "trainer.max_epochs": 85,
    },
    "cifar10/fat_mart": {
        **ZHANG,
        **FRIENDLY,
        "model": "MART",
        "model.beta": 6,
        **prefixed(ATTACK, start="normal", noise=None),
        **prefixed(TAU, values=[0, 1, 2, 3, 4], milestones=[20, 40, 60, 80]),
        **prefixed("model.scheduler", milestones=[59], gamma=0.1, factors=None),
        "trainer.max_epochs": 85,
    },
    "cifar10/grad_align": {
        **ALIGNED,
        "model.regularizers.weight": 0.2,
        "model.optimizer.lr": 0.3,
        "trainer.max_epochs": 30,
    },
    "svhn/grad_align": {
        **ALIGNED,
        "model.regularizers.weight": 2.5,
        "model.optimizer.lr": 0.05,
        "trainer.max_epochs": 15,
        **prefixed("trainer.callbacks.AttackStrength.step_size", start=0, end="10/255", epochs=5),
    },
    "cifar10/llr": {  # google-deepmind/local_linearity_regularizer@0471752, its total halved
        "model": "Standard",
        "model.net": "WideResNet",
        **prefixed("model.net", depth=28, widen_factor=8, activation="softplus"),
        "model.regularizers": "LocalLinearity",
        **prefixed("model.regularizers", weight=4 / 2, mu=4 * 0.3 / 2, steps=None, step_size=None),
        **prefixed("model.attack.threat", norm="linf", eps="8/255"),
        **prefixed("model.optimizer", lr=0.1 * 2, momentum=0.9, weight_decay=2e-4 / 2),
        **prefixed("model.scheduler", milestones=[80 * 1.28 // 1, 88 * 1.28 // 1 + 1, 96 * 1.28 // 1 + 1], gamma=0.1),
        "trainer.max_epochs": 128,
        "data.batch_size": 64,
    },
    "cifar10/iat": {  # ndb796/Pytorch-Adversarial-Training-CIFAR@e0a5218
        "model": "IAT",
        "model.alpha": 1,
        **prefixed("model.net", name="resnet18", small_images=True),
        **prefixed(ATTACK, steps=7, step_size=0.00784, start=None),
        **prefixed("model.attack.threat", norm="linf", eps=0.0314),
        "model.attack_bn": "train",
        **prefixed("model.optimizer", lr=0.1, momentum=0.9, weight_decay=2e-4),
        **prefixed("model.scheduler", milestones=[100, 150], gamma=0.1),
        "trainer.max_epochs": 200,
        "data.batch_size": 128,
    },
    "cifar10/hat": {
        **RADE,
        "model": "HAT",
        **prefixed("model", beta=2.5, gamma=0.5, h=2),
        **prefixed(ATTACK, steps=10, start="normal"),
    },
    "cifar10/standard": {**RADE, "model": "Standard"},
    "cifar10/hat_generated": {
        **WANG,
        **WRN28,
        "trainer.max_epochs": 400,
        "model": "HAT",
        **prefixed("model", beta=3.5, gamma=0.5, h=2),
        "model.optimizer.lr": 0.4,
        "model.scheduler.max_lr": 0.4,
        **prefixed("data", batch_size=1024, fraction=0.7),
    },
    "cifar10/he_at": {**PANG, "model": "AT", "model.net.scale": 10, "model.logit_margin": 10 * 0.2, WD: 5e-4},
    "cifar10/he_trades": {
        **PANG,
        "model": "TRADES",
        "model.beta": 6,
        "model.net.scale": 15,
        "model.logit_margin": 15 * 0.2,
        WD: 2e-4,
    },
    "cifar10/he_alp": {
        **PANG,
        "model": "ALP",
        "model.beta": 0.5 / 20**2,
        "model.net.scale": 20,
        "model.logit_margin": 20 * 0.3,
        WD: 2e-4,
    },
    "cifar10/idbh": {  # TreeLLi/DA-Alone-Improves-AT@38b740a
        "model": "AT",
        "model.net": "PreActResNet",
        "model.net.depth": 18,
        **prefixed(ATTACK, steps=10, step_size="2/255"),
        **prefixed("model.optimizer", lr=0.1, momentum=0.9, weight_decay=5e-4),
        **prefixed("model.scheduler", milestones=[100, 150], gamma=0.1),
        "trainer.max_epochs": 200,
        "data.batch_size": 128,
        "data.padding": 0,
        "data.augmentation.IDBH.version": "cifar10-strong",
        **prefixed(AVERAGED, decay=0.999, start=None),
    },
    "imagenet/at_convnext_t": {**SINGH, **CONVNEXT, **LONG},
    "imagenet/at_convnext_t_50": {**SINGH, **CONVNEXT, **SHORT},
    "imagenet/at_vit_s": {**SINGH, **VIT, **LONG},
    "imagenet/at_vit_s_50": {**SINGH, **VIT, **SHORT},
    "imagenet/at_convnext_b": {**ARES, "model.net.name": "convnext_base"},
    "imagenet/at_swin_b": {**ARES, "model.net.name": "swin_base_patch4_window7_224"},
    "imagenet/at_xcit_s": {  # dedeswim/vits-robustness-torch@2f5a214
        "model": "AT",
        "model.net.name": "xcit_small_12_p16_224",
        "model.net.options": None,
        "model.net.options.drop_path_rate": 0.05,
        "model.net.mean": [0, 0, 0],
        **prefixed(ATTACK, steps=1, step_size="6/255"),
        **FOUR,
        **prefixed("trainer.callbacks.AttackStrength.eps", start=0, end="4/255", epochs=10),
        **prefixed("trainer.callbacks.AttackStrength.step_size", start="6/255", end="6/255"),
        "model.label_smoothing": 0.1,
        "model.base_batch_size": 512,
        **prefixed("model.optimizer", lr=5e-4, weight_decay=0.5),
        **prefixed("model.scheduler", warmup=0.1, start_factor=1e-6 / 5e-4, eta_min=1e-5),
        "trainer.max_epochs": 100,
        "data.augmentation.ColorJitter.brightness": 0.4,
        "data.mixing.mixup_alpha": None,
    },
    "imagenet/at_targeted": {**XIE, "model.net.options.zero_init_residual": True},
    "imagenet/at_denoise": {
        **XIE,
        **prefixed("model.net", net="TorchvisionModel", stages=["layer1", "layer2", "layer3", "layer4"]),
        **prefixed("model.net.net", name="resnet152"),
        "model.net.net.options.zero_init_residual": True,
    },
    "imagenet/fast": {  # locuslab/fast_adversarial@54f7287
        "model": "AT",
        **prefixed(ATTACK, steps=1, step_size="5/255", start=None),
        **FOUR,
        "model.attack_bn": "train",
        **prefixed("model.optimizer", lr=0.4, momentum=0.9, weight_decay=1e-4),
        "model.parameter_groups.no_decay": ["bn", "downsample.1"],
        "model.scheduler.factors": [0, 1, 0.1, 0.01, 0.001],
        **prefixed("data.resolution", values=[128, 224, 288], milestones=[6, 12]),
        "trainer.max_epochs": 15,
    },
}
OWN = (
    *("cifar10/st_generated", "cifar10/emr_generated", "cifar10/trades_awp_ema"),
    *("imagenet/iaat_convnext_t", "imagenet/st_convnext_t", "imagenet/emr_convnext_t"),
)
"""Recipes of the project's own."""

EXPECTED = {
    "cifar10/ikl": {"85.31", "57.13"},
    "cifar10/mma": {"84.36", "41.44"},
    "cifar100/lbgat": {"60.64", "29.33"},
    "cifar10/lbgat": {"88.22", "52.86"},
    "cifar10/trades_generated": {"91.12", "63.35"},
    "cifar10/trades_generated_20m": {"92.44", "67.31"},
    "cifar10/score": {"88.61", "61.04"},
    "cifar10/grad_align": {"79.84", "43.93"},
    "cifar10/fat": {"89.34", "46.13"},
    "cifar10/fat_trades": {"86.60", "55.98"},
    "cifar10/iat": {"91.86", "44.76"},
    "cifar10/hat": {"84.90", "49.08"},
    "cifar10/hat_generated": {"88.16", "60.97"},
    "cifar10/gairat": {"85.75", "57.81", "85.49", "53.76"},
    "imagenet/at_convnext_b": {"76.02", "55.82"},
    "imagenet/at_swin_b": {"76.16", "56.16"},
    "imagenet/at_xcit_s": {"72.34", "41.78"},
    "imagenet/fast": {"55.62", "26.24"},
}
"""Published accuracies, in percent, of the sources that the headers name."""


def settings(recipe: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((CONFIGS / f"{recipe}.yaml").read_text())
    return flat(config)


def number(value: Any) -> Any:
    if isinstance(value, list):
        return [number(v) for v in value]
    try:
        return value if value is None or isinstance(value, bool) else to_float(value)
    except ValueError:
        return value


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_hyper_parameters_are_the_authors(recipe: str) -> None:
    found = settings(recipe)
    for place, expected in PUBLISHED[recipe].items():
        value, wanted = number(found.get(place)), number(expected)
        close = isinstance(wanted, float) and value == pytest.approx(wanted, rel=2e-3)
        assert close or value == wanted, f"{place}: {value} instead of {wanted}"


@pytest.mark.parametrize("recipe", ["imagenet/at_convnext_t", "imagenet/at_convnext_t_50", "imagenet/at_vit_s"])
def test_rates_are_the_authors_at_each_epoch(recipe: str) -> None:
    epochs, singh = int(settings(recipe)["trainer.max_epochs"]), MODERN["singh_lr"]
    recorded = next((singh[case] for case in singh if case.startswith(f"epochs_{epochs}_")), None)
    if recorded is None:
        pytest.skip("another record holds the rates of other lengths")
    found = rates(built(CONFIGS / f"{recipe}.yaml", epochs), epochs + 1)[:: epochs // (len(recorded) - 1)]
    assert found == pytest.approx(recorded, rel=2e-3)  # the share of the warm-up is rounded


def test_the_one_cycle_is_the_authors_in_rates_and_momentum() -> None:
    recorded = MODERN["wang_facts"]["onecycle_400"]
    schedule = built(CONFIGS / "cifar10" / "trades_generated.yaml", recorded["epochs"])
    for lr, momentum in zip(recorded["lr"], recorded["momentum"], strict=True):
        (group,) = schedule.optimizer.param_groups
        assert (group["lr"], group["momentum"]) == pytest.approx((lr, momentum), rel=1e-9)
        schedule.optimizer.step()
        schedule.step()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [*PUBLISHED, *OWN])
def test_it_goes_on_where_it_was_stopped(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIGS / f"{recipe}.yaml"
    monkeypatch.chdir(tmp_path)
    given = [word for word in QUICKLY if not word.startswith("--trainer.max_epochs")]
    command = ["fit", "--config", str(config), *given, *prepare(config, tmp_path)]
    with checksums_of(tmp_path / "data"):
        main([*command, "--trainer.max_epochs=1"])
        (last,) = tmp_path.rglob("last.ckpt")
        before = torch.load(last, weights_only=True)
        main([*command, "--trainer.max_epochs=2", "--ckpt_path", str(last)])
    after = torch.load(last, weights_only=True)
    assert (before["global_step"], after["global_step"]) == (1, 2)
    set_to = settings(recipe)
    averages = f"{AVERAGED}.decay" in set_to and f"{AVERAGED}.start_epoch" not in set_to  # else only later
    assert ("current_model_state" in after) == averages
    for weights in (after["state_dict"], after.get("current_model_state", {})):
        assert all(value.isfinite().all() for value in weights.values())


def test_the_rates_of_lbgat_are_the_authors() -> None:
    """By their epochs, which count from 1."""
    expected = [0.02 if e == 1 else 0.1 * (0.01 if e >= 91 else 0.1 if e >= 76 else 1) for e in range(1, 101)]
    for data in ("cifar10", "cifar100"):
        assert rates(built(CONFIGS / data / "lbgat.yaml", 100), 100) == pytest.approx(expected)


def test_the_rates_of_mma_are_the_authors() -> None:
    found = rates(built(CONFIGS / "cifar10" / "mma.yaml", 50000), 50000)
    assert found == pytest.approx([0.3] * 20000 + [0.09] * 10000 + [0.03] * 10000 + [0.009] * 10000)


OF_METHOD = {
    "imagenet/iaat_convnext_t": ("imagenet/iaat", ("attack.", "gamma", "beta", "warmup")),
    "imagenet/st_convnext_t": ("imagenet/st", ("attack.", "beta")),
    "imagenet/emr_convnext_t": ("imagenet/emr_at", ("weight", "temperature")),
    "cifar10/st_generated": ("cifar10/st", ("attack.", "beta", "keep_roles")),
}
"""Recipes whose headers say that the method is set as in another one, and by which settings."""


@pytest.mark.parametrize("recipe", OF_METHOD)
def test_a_method_on_another_net_is_set_as_its_own_recipe(recipe: str) -> None:
    base, names = OF_METHOD[recipe]
    ours, theirs = (
        {name: value for name, value in flat(model["model"]["init_args"]).items() if name.startswith(names)}
        for model in (yaml.safe_load((CONFIGS / f"{each}.yaml").read_text()) for each in (recipe, base))
    )
    assert ours == theirs
    assert len(ours) >= len(names)
