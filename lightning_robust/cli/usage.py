"""What the command line says of itself: `lightning-robust --help` and `--version`."""

from importlib.metadata import PackageNotFoundError, version

COMMANDS = {
    "fit": "train a recipe; the best checkpoint is chosen under attack",
    "validate": "attack a checkpoint's net on the validation set",
    "test": "attack it on the test set: a table, robustness.json, figures",
    "predict": "run a checkpoint's net on the data, without attacks",
    "plan": "measure a few steps and say how long a recipe will take here",
    "recipes": "list the recipes that come with the package, or print one",
    "evaluate": "attack any net on any data, without a training",
    "report": "write one HTML page about a run",
    "compare": "put runs side by side, with paired tests",
    "export": "write a checkpoint's net as safetensors, with a model card",
    "push": "upload an export to the Hugging Face Hub",
    "leaderboard": "write a result in the form of RobustBench's leaderboard",
}
"""The subcommands, and what each does."""

_HELP = """\
Adversarial robustness on PyTorch Lightning: trains classifiers that withstand
adversarial examples, attacks them, and reports how many predictions hold.

usage: lightning-robust COMMAND [--config RECIPE] [--SETTING VALUE ...]

commands:
{commands}

examples:
  lightning-robust recipes digits
  lightning-robust fit --config digits/at
  lightning-robust fit --config digits/at --trainer.max_epochs 3
  lightning-robust test --config runs/Digits/AT/<run>/config.yaml \\
      --ckpt_path runs/Digits/AT/<run>/checkpoints/<best>.ckpt

RECIPE is the name of a recipe or the path of a YAML file; several may be given,
and what stands later, or on the command line, wins.

options:
  COMMAND --help  all settings of a command
  --version       the version
  --traceback     with any command: where in the code an error came from
                  (also with LIGHTNING_ROBUST_TRACEBACK=1 in the environment)

exit status: 0 if all went well, 2 if something was refused (one sentence says
what), 3 if a check did not pass under --evaluation.strict true, 1 otherwise.
"""


def help_text() -> str:
    """Say what the command line is, which commands it has, and how a few of them look, on one screen."""
    return _HELP.format(commands="\n".join(f"  {name:<12} {does}" for name, does in COMMANDS.items()))


def version_text() -> str:
    """Name the version of this package and of those that results depend on, without importing them."""
    versions = {name: _version(name) for name in ("lightning-robust", "lightning", "torch")}
    return ", ".join(f"{name} {found}" for name, found in versions.items())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # used from a source tree
        return "(not installed)"
