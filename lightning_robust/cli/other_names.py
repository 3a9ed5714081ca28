"""Options that another command has under another name: `--strict` here is `--evaluation.strict` there."""

from collections.abc import Collection

from lightning_robust.cli.settings import SETTINGS

_IN_EVALUATE = {
    "ckpt_path": "net",
    "model": "net",
    "model.net": "net",
    "model.attack.threat": "threat",
    "model.attack.threat.eps": "threat",
    "model.attack.threat.norm": "threat",
    "model.attack.steps": "attacks",
    "seed_everything": "seed",
    "trainer.default_root_dir": "out",
}
_IN_FIT = {
    "attacks": "evaluation.attacks",
    "epochs": "trainer.max_epochs",
    "out": "trainer.default_root_dir",
    "seed": "seed_everything",
    "surrogate": "evaluation.attacks",
}


def other_name(option: str, known: Collection[str]) -> str | None:
    """Return the name that this command has for an option of another command; None if it has none.

    Args:
        option: an option that this command does not know, without dashes.
        known: the options of `evaluate`; none for `fit` and the other commands that run a trainer.

    Example:
        >>> other_name("evaluation.strict", {"net", "strict"}), other_name("strict", ())
        ('strict', 'evaluation.strict')
    """
    last = option.rpartition(".")[2]
    if "net" in known:
        if option.startswith("model.net."):
            return option.removeprefix("model.")
        found = _IN_EVALUATE.get(option, last if "." in option else option)
        return found if found in known and found != option else None
    names = [each.option.removeprefix("--") for settings in SETTINGS.values() for each in settings]
    short = {name.rpartition(".")[2]: name for name in reversed(names) if "." in name}
    return None if "." in option else _IN_FIT.get(option, short.get(option))
