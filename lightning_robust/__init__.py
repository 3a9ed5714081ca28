"""Adversarial robustness on PyTorch Lightning: defenses, attacks, robust evaluation and metrics.

Every name of `__all__` is imported from its module when it is first used, so that `import lightning_robust` loads
neither torch nor Lightning, and attacks, metrics and `Threat` work without Lightning.

>>> import lightning_robust as lr
>>> lr.Threat("linf", "8/255").norm
'linf'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers read; `_NAMES` below holds the same names
    from lightning_robust.attacks import APGD as APGD
    from lightning_robust.attacks import CW as CW
    from lightning_robust.attacks import DDN as DDN
    from lightning_robust.attacks import FAB as FAB
    from lightning_robust.attacks import FMN as FMN
    from lightning_robust.attacks import MSD as MSD
    from lightning_robust.attacks import NFGSM as NFGSM
    from lightning_robust.attacks import PDPGD as PDPGD
    from lightning_robust.attacks import PGD as PGD
    from lightning_robust.attacks import Attack as Attack
    from lightning_robust.attacks import AutoAttack as AutoAttack
    from lightning_robust.attacks import Collaborative as Collaborative
    from lightning_robust.attacks import DeepFool as DeepFool
    from lightning_robust.attacks import Ensemble as Ensemble
    from lightning_robust.attacks import FriendlyPGD as FriendlyPGD
    from lightning_robust.attacks import HopSkipJump as HopSkipJump
    from lightning_robust.attacks import MinimumNorm as MinimumNorm
    from lightning_robust.attacks import NearestExamples as NearestExamples
    from lightning_robust.attacks import OneOf as OneOf
    from lightning_robust.attacks import SigmaZero as SigmaZero
    from lightning_robust.attacks import SparsePGD as SparsePGD
    from lightning_robust.attacks import SparseRS as SparseRS
    from lightning_robust.attacks import Square as Square
    from lightning_robust.attacks import SuperDeepFool as SuperDeepFool
    from lightning_robust.attacks import TrainingAPGD as TrainingAPGD
    from lightning_robust.attacks import Transfer as Transfer
    from lightning_robust.attacks import WorstOf as WorstOf
    from lightning_robust.attacks.functional import apgd as apgd
    from lightning_robust.attacks.functional import autoattack as autoattack
    from lightning_robust.attacks.functional import cw as cw
    from lightning_robust.attacks.functional import deepfool as deepfool
    from lightning_robust.attacks.functional import fab as fab
    from lightning_robust.attacks.functional import minimum_norms as minimum_norms
    from lightning_robust.attacks.functional import pgd as pgd
    from lightning_robust.attacks.functional import square as square
    from lightning_robust.attacks.functional import squeeze as squeeze
    from lightning_robust.callbacks import AdversarialInputs as AdversarialInputs
    from lightning_robust.callbacks import AttackStrength as AttackStrength
    from lightning_robust.callbacks import AveragedWeights as AveragedWeights
    from lightning_robust.callbacks import BatchNormMomentum as BatchNormMomentum
    from lightning_robust.callbacks import CatastrophicOverfitting as CatastrophicOverfitting
    from lightning_robust.callbacks import CorruptionAccuracy as CorruptionAccuracy
    from lightning_robust.callbacks import Curves as Curves
    from lightning_robust.callbacks import EffectiveMargins as EffectiveMargins
    from lightning_robust.callbacks import EpochLines as EpochLines
    from lightning_robust.callbacks import FairAveragedWeights as FairAveragedWeights
    from lightning_robust.callbacks import PseudoLabels as PseudoLabels
    from lightning_robust.callbacks import RadiusHistogram as RadiusHistogram
    from lightning_robust.callbacks import RobustEvaluation as RobustEvaluation
    from lightning_robust.callbacks import RobustProgressBar as RobustProgressBar
    from lightning_robust.callbacks import UnsoundEvaluation as UnsoundEvaluation
    from lightning_robust.defenses import ALP as ALP
    from lightning_robust.defenses import ARD as ARD
    from lightning_robust.defenses import AT as AT
    from lightning_robust.defenses import AVG as AVG
    from lightning_robust.defenses import AWP as AWP
    from lightning_robust.defenses import CFA as CFA
    from lightning_robust.defenses import CFAAT as CFAAT
    from lightning_robust.defenses import EAT as EAT
    from lightning_robust.defenses import EMR as EMR
    from lightning_robust.defenses import GAIRAT as GAIRAT
    from lightning_robust.defenses import HAT as HAT
    from lightning_robust.defenses import IAAT as IAAT
    from lightning_robust.defenses import IAD as IAD
    from lightning_robust.defenses import IAT as IAT
    from lightning_robust.defenses import IKL as IKL
    from lightning_robust.defenses import LBGAT as LBGAT
    from lightning_robust.defenses import MAIL as MAIL
    from lightning_robust.defenses import MART as MART
    from lightning_robust.defenses import MMA as MMA
    from lightning_robust.defenses import MMC as MMC
    from lightning_robust.defenses import RSLAD as RSLAD
    from lightning_robust.defenses import SCORE as SCORE
    from lightning_robust.defenses import SCOREAT as SCOREAT
    from lightning_robust.defenses import ST as ST
    from lightning_robust.defenses import TRADES as TRADES
    from lightning_robust.defenses import AdaAD as AdaAD
    from lightning_robust.defenses import Defense as Defense
    from lightning_robust.defenses import Distillation as Distillation
    from lightning_robust.defenses import FreeAT as FreeAT
    from lightning_robust.defenses import MarginDefense as MarginDefense
    from lightning_robust.defenses import Standard as Standard
    from lightning_robust.metrics import AttackSuccessRate as AttackSuccessRate
    from lightning_robust.metrics import CorruptionError as CorruptionError
    from lightning_robust.metrics import EffectiveMargin as EffectiveMargin
    from lightning_robust.metrics import PerturbationNorm as PerturbationNorm
    from lightning_robust.metrics import RobustAccuracy as RobustAccuracy
    from lightning_robust.models.by_name import load_net as load_net
    from lightning_robust.publish.evaluate import evaluate as evaluate
    from lightning_robust.runtime.adapter import NetAdapter as NetAdapter
    from lightning_robust.runtime.bpda import bpda as bpda
    from lightning_robust.threat import Threat as Threat

_NAMES = {
    "attacks": "APGD CW DDN FAB FMN NFGSM PDPGD PGD Attack AutoAttack Collaborative DeepFool Ensemble FriendlyPGD "
    "HopSkipJump MSD MinimumNorm NearestExamples OneOf SigmaZero SparsePGD SparseRS Square SuperDeepFool "
    "TrainingAPGD Transfer WorstOf",
    "attacks.functional": "apgd autoattack cw deepfool fab minimum_norms pgd square squeeze",
    "callbacks": "AdversarialInputs AttackStrength AveragedWeights BatchNormMomentum CatastrophicOverfitting "
    "CorruptionAccuracy Curves EffectiveMargins EpochLines FairAveragedWeights PseudoLabels RadiusHistogram "
    "RobustEvaluation RobustProgressBar UnsoundEvaluation",
    "defenses": "ALP ARD AT AVG AWP CFA CFAAT EAT EMR GAIRAT HAT IAAT IAD IAT IKL LBGAT MAIL MART MMA MMC RSLAD "
    "SCORE SCOREAT ST TRADES AdaAD Defense Distillation FreeAT MarginDefense Standard",
    "metrics": "AttackSuccessRate CorruptionError EffectiveMargin PerturbationNorm RobustAccuracy",
    "models.by_name": "load_net",
    "publish.evaluate": "evaluate",
    "runtime.adapter": "NetAdapter",
    "runtime.bpda": "bpda",
    "threat": "Threat",
}
_MODULES = {name: f"{__name__}.{module}" for module, names in _NAMES.items() for name in names.split()}

__all__ = ["__version__", *sorted(_MODULES)]
__version__: str

if not TYPE_CHECKING:  # where a checker saw this function, it would accept every misspelt name

    def __getattr__(name: str) -> Any:
        """Import a public name from its module and keep it here."""
        if name == "__version__":
            globals()[name] = found = _version()
            return found
        if name not in _MODULES:
            from lightning_robust.utils.messages import did_you_mean

            raise AttributeError(f"module {__name__!r} has no attribute {name!r}{did_you_mean(name, _MODULES)}")
        value = globals()[name] = getattr(import_module(_MODULES[name]), name)
        return value


def _version() -> str:
    """Look the version up, by a module that takes ten times as long to import as this one."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("lightning-robust")
    except PackageNotFoundError:  # a source tree that was not installed
        return "0+unknown"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
