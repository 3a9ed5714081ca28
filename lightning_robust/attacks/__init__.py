"""Attacks: from a net, images and a target to adversarial examples.

The classes here are configured once and called often. `lightning_robust.attacks.functional` has each attack as a plain
function.
"""

from lightning_robust.attacks.apgd import APGD
from lightning_robust.attacks.autoattack import AutoAttack
from lightning_robust.attacks.base import Attack
from lightning_robust.attacks.collaborative import Collaborative
from lightning_robust.attacks.cw import CW
from lightning_robust.attacks.ddn import DDN
from lightning_robust.attacks.deepfool import DeepFool
from lightning_robust.attacks.ensemble import Ensemble
from lightning_robust.attacks.fab import FAB
from lightning_robust.attacks.fmn import FMN
from lightning_robust.attacks.friendly_pgd import FriendlyPGD
from lightning_robust.attacks.hop_skip_jump import HopSkipJump
from lightning_robust.attacks.minimum_norm import MinimumNorm
from lightning_robust.attacks.msd import MSD
from lightning_robust.attacks.nearest_examples import NearestExamples
from lightning_robust.attacks.nfgsm import NFGSM
from lightning_robust.attacks.one_of import OneOf
from lightning_robust.attacks.pdpgd import PDPGD
from lightning_robust.attacks.pgd import PGD
from lightning_robust.attacks.sigma_zero import SigmaZero
from lightning_robust.attacks.sparse_pgd import SparsePGD
from lightning_robust.attacks.sparse_rs import SparseRS
from lightning_robust.attacks.square import Square
from lightning_robust.attacks.superdeepfool import SuperDeepFool
from lightning_robust.attacks.training_apgd import TrainingAPGD
from lightning_robust.attacks.transfer import Transfer
from lightning_robust.attacks.worst_of import WorstOf

__all__ = [
    "APGD",
    "CW",
    "DDN",
    "FAB",
    "FMN",
    "MSD",
    "NFGSM",
    "PDPGD",
    "PGD",
    "Attack",
    "AutoAttack",
    "Collaborative",
    "DeepFool",
    "Ensemble",
    "FriendlyPGD",
    "HopSkipJump",
    "MinimumNorm",
    "NearestExamples",
    "OneOf",
    "SigmaZero",
    "SparsePGD",
    "SparseRS",
    "Square",
    "SuperDeepFool",
    "TrainingAPGD",
    "Transfer",
    "WorstOf",
]
