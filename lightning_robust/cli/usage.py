"""What the command line says of itself: `lightning-robust --help` and `--version`."""

from importlib.metadata import PackageNotFoundError, version

COMMANDS = {
    "fit": "train a recipe; the best checkpoint is chosen under attack",
    "validate": "attack a checkpoint's net on the validation set",
    "test": "attack a checkpoint's net on the test set: table, JSON, figures",
    "predict": "run a checkpoint's net on the data, without attacks",
    "plan": "measure a few steps and say how long a recipe will take here",
    "recipes": "list the recipes that come with the package, or print one",
    "evaluate": "attack any net on any data; needs no recipe and no run",
    "report": "write one HTML page about a run",
    "compare": "put runs side by side, with paired tests",
    "export": "write a checkpoint's net as safetensors, with a model card",
    "push": "upload an export to the Hugging Face Hub",
    "leaderboard": "write a result in the form of RobustBench's leaderboard",
    "completion": "print a script that adds tab completion to bash or zsh",
}
"""The subcommands, and what each does."""

_OF_A_RUN = "--config <run>/config.yaml \\\n      --ckpt_path <run>/checkpoints/<best>.ckpt"
EXAMPLES = {
    "fit": "--config digits/at --model.attack.threat.eps 8/255",
    "validate": _OF_A_RUN,
    "test": _OF_A_RUN,
    "predict": _OF_A_RUN,
    "plan": "--config cifar10/at --data.download true",
    "recipes": "digits",
    "evaluate": "--net <run>/checkpoints/<best>.ckpt --data Digits \\\n"
    '      --threat "linf 0.1, 0.15" --attacks "pgd50, fab"',
    "report": "runs/Digits/AT/<run>",
    "compare": "runs/Digits/AT/<run> runs/Digits/TRADES/<run>",
    "export": "--ckpt_path <run>/checkpoints/<best>.ckpt \\\n      --folder weights/digits-at --license mit",
    "push": "--folder weights/digits-at --repo_id us/digits-at",
    "completion": "bash > ~/.lightning-robust.bash",
    "leaderboard": "--report <run>/robustness.json \\\n"
    "      --model_id Us2026Ours --dataset cifar10 --name 'Our paper' \\\n"
    "      --link https://arxiv.org/abs/2601.00001 --authors 'A. Author' \\\n"
    "      --venue 'arXiv, Jan 2026' --architecture WideResNet-28-10 \\\n"
    "      --additional_data false",
}
"""An example of the arguments of each subcommand; `<run>` stands for the folder of a run."""

NOTES = {
    "evaluate": "A net is named by its library (timm:resnet18, torchvision:resnet18, hf:<name>, "
    "robustbench:Linf/<name>) or by a file or folder; nets of timm and torchvision start untrained: add "
    "--net.pretrained true or --net.weights DEFAULT. --data names a data module, such as ImageFolder or CIFAR10, whose "
    "settings follow as --data.root and the like.",
}
"""What to know before the settings of a subcommand."""

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

RECIPE is the name of a recipe or the path of a YAML file. If --config is given
several times, later files override earlier ones; other settings override both.

options:
  COMMAND --help  the most used settings; COMMAND --help-all lists all settings
  --version       the version
  --traceback     with any command: where in the code an error came from
                  (also with LIGHTNING_ROBUST_TRACEBACK=1 in the environment)

exit status: 0 if all went well, 2 if something was refused (one sentence says
what), 3 if a check did not pass under --evaluation.strict true, 143 after
SIGTERM, 1 otherwise.
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
