"""The settings that the `--help` of a command shows: of those that run a trainer the most used, of others all."""

from typing import NamedTuple


class Setting(NamedTuple):
    """An option as a page of help shows it, on a line of 80 columns.

    Args:
        option: with its dashes.
        example: a value that it takes, quoted for the shell.
        meaning: a few words.
    """

    option: str
    example: str
    meaning: str


_DATA = (
    Setting("--data", "ImageFolder", "data module; its settings follow"),
    Setting("--data.root", "photos", "folder of the data"),
    Setting("--data.batch_size", "128", "images in a batch, on each device"),
    Setting("--data.num_workers", "4", "processes that load images"),
)
_NET = Setting("--model.net", "timm:resnet18", "net by name, or a class of yours")
_MACHINE = (
    Setting("--trainer.accelerator", "cpu", "cpu, gpu or auto"),
    Setting("--trainer.devices", "1", "how many devices"),
    Setting("--trainer.precision", "bf16-mixed", "faster, on recent GPUs and CPUs"),
)
_PLACE = Setting("--trainer.default_root_dir", "runs", "folder for the runs' folders")
_SEED = Setting("--seed_everything", "1", "seed of all random numbers")
_CONFIG = Setting("--config", "digits/at", "recipe by name, or a YAML file")
_RUN = Setting("--config", "digits/at", "the run's config.yaml, or a recipe")
_WEIGHTS = Setting("--ckpt_path", "best.ckpt", "checkpoint to load")
_TRAINING = (
    Setting("--trainer.max_epochs", "60", "epochs; the lr schedule follows"),
    Setting("--model.attack.threat.norm", "l2", "norm of the threat"),
    Setting("--model.attack.threat.eps", "8/255", "radius in training and evaluation"),
    Setting("--model.attack.steps", "7", "steps of the training attack"),
    Setting("--model.attack.step_size", "2/255", "step size of the training attack"),
    Setting("--model.optimizer.lr", "0.05", "learning rate"),
    Setting("--model.optimizer.weight_decay", "1e-4", "weight decay"),
)
_EVALUATION = (
    Setting("--evaluation.threat", '"{norm: l2, eps: 0.5}"', "another threat than in training"),
    Setting("--evaluation.samples", "1000", "use only the first 1000 images"),
    Setting("--evaluation.calibration", "true", "also report ECE, NLL, Brier score"),
    Setting("--evaluation.targets", "random", "also run targeted attacks"),
    Setting("--evaluation.strict", "true", "status 3 if a check does not pass"),
    Setting("--evaluation.check_samples", "0", "images for the checks; 0: none"),
    Setting("--evaluation.precision", "bf16", "run the attacks in bf16"),
)

SETTINGS: dict[str, tuple[Setting, ...]] = {
    "fit": (
        *(_CONFIG, _NET, *_DATA),
        *(Setting("--data.val_size", "200", "images held out for validation"), *_TRAINING, *_MACHINE),
        Setting("--trainer.accumulate_grad_batches", "2", "batches in a step of the optimizer"),
        Setting("--trainer.logger", "CSVLogger", "or WandbLogger, MLFlowLogger, ..."),
        *(_SEED, _PLACE, Setting("--ckpt_path", "last.ckpt", "resume from this checkpoint")),
    ),
    "validate": (_RUN, _WEIGHTS, *_DATA, *_EVALUATION, *_MACHINE, _SEED, _PLACE),
    "test": (
        *(_RUN, Setting("--config", "evaluation/autoattack", "second config: adds AutoAttack"), _WEIGHTS),
        *(*_DATA, *_EVALUATION, *_MACHINE, _SEED, _PLACE),
    ),
    "predict": (_RUN, _WEIGHTS, *_DATA, *_MACHINE, _PLACE),
    "plan": (
        *(_CONFIG, _NET, *_DATA, *_TRAINING[:4], *_MACHINE),
        Setting("--steps", "5", "steps that are measured in an epoch"),
        Setting("--devices", '"[1, 8]"', "numbers of devices to estimate for"),
        Setting("--seconds", "5", "after which an attack is extrapolated"),
    ),
    "evaluate": (
        Setting("--net", "timm:resnet18", "net by name, file or class (required)"),
        Setting("--data", "ImageFolder", "data module (required): its test set"),
        Setting("--threat", '"linf 2/255, 8/255, l2 0.5"', "norm and radius, or several; by default linf 8/255"),
        Setting("--attacks", '"pgd50, fab"', "attacks by name; by default autoattack"),
        Setting("--surrogate", "torchvision:resnet18", "craft the examples on this net (transfer)"),
        Setting("--samples", "1000", "use only the first 1000 images; by default all"),
        Setting("--seed", "1", "seed of the attacks' random numbers; by default 0"),
        Setting("--precision", "bf16", "run the attacks in bf16; by default in fp32"),
        Setting("--calibration", "true", "also report ECE, NLL and Brier score"),
        Setting("--targets", "random", "targeted attacks too: a class, random, least_likely"),
        Setting("--check_samples", "0", "images for the checks, by default 64; 0: none"),
        Setting("--image_memory", "16", "GiB for waiting images, by default 8.0; then a file"),
        Setting("--trainer.accelerator", "cpu", "cpu, gpu or auto; by default auto"),
        Setting("--trainer.devices", "2", "how many devices, or which ones; by default 1"),
        Setting("--trainer.strategy", "ddp", "as Lightning's Trainer takes it; by default auto"),
        Setting("--out", "results", "folder for results; by default in runs/<data>"),
        Setting("--strict", "true", "end with status 3 if a check does not pass"),
    ),
    "export": (
        Setting("--ckpt_path", "best.ckpt", "checkpoint of a defense (required)"),
        Setting("--folder", "weights/at", "folder to write (required)"),
        Setting(
            "--evaluation",
            "robustness.json",
            "result of `test` on this very checkpoint; by default the strongest one among the runs beside the "
            "checkpoint's own, of those at the threat of the training if there are any",
        ),
        Setting("--name", "us/at", "what the card calls the net; by default the folder"),
        Setting("--license", "mit", "identifier of the licence of the weights"),
    ),
    "push": (
        Setting("--folder", "weights/at", "what `export` wrote; nothing else in it is uploaded (required)"),
        Setting("--repo_id", "us/at", "organisation/name; created if it is not there (required)"),
        Setting("--private", "false", "whether a repository that is created is for members only; by default true"),
    ),
    "leaderboard": (
        Setting("--report", "robustness.json", "what `test` wrote (required)"),
        Setting("--model_id", "Rice2020Overfitting", "author, year, first word of the title (required)"),
        Setting("--folder", "entries", "folder to write; by default model_info"),
        Setting("--dataset", "cifar10", "cifar10, cifar100 or imagenet (required)"),
        Setting("--name", "'Our paper'", "title of the paper (required)"),
        Setting("--link", "https://arxiv.org/abs/2601.00001", "address of the paper (required)"),
        Setting("--authors", "'A. Author, B. Author'", "their names, separated by commas (required)"),
        Setting("--venue", "'ICML 2020'", "or 'arXiv, Mar 2021' (required)"),
        Setting("--architecture", "WideResNet-28-10", "architecture of the net (required)"),
        Setting(
            "--additional_data",
            "false",
            "whether it was trained on additional real images; generated images do not count (required)",
        ),
        Setting("--number_forward_passes", "1", "forward passes that a prediction takes; by default 1"),
        Setting("--reported", "53.2", "robust accuracy that the paper reports, in percent; by default the one found"),
        Setting("--footnote", "'A note.'", "what else to know"),
        Setting("--attack", "autoattack", "name of AutoAttack in the report, if there are several"),
        Setting(
            "--any_setting",
            "true",
            "also take another attack, radius or number of samples than the benchmark's, and say so in the footnote",
        ),
    ),
}
"""By command, in the order in which they are shown."""
