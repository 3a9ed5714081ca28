"""`lightning-robust evaluate`: any net on any data, without a training configuration."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveInt
from lightning import seed_everything
from rich.console import Console
from torch import nn

import lightning_robust.attacks
import lightning_robust.models  # noqa: F401  (imported, so that short class names resolve)
from lightning_robust.attacks import Attack, Transfer
from lightning_robust.attacks.named import named_attacks
from lightning_robust.callbacks import UnsoundEvaluation
from lightning_robust.cli.config_file import ConfigFile
from lightning_robust.cli.devices import launched_rank
from lightning_robust.cli.held_out import check_held_out
from lightning_robust.cli.net_from_data import build, fill_net
from lightning_robust.cli.parser import Parser
from lightning_robust.cli.run_name import run_name
from lightning_robust.cli.terminal import calm
from lightning_robust.cli.usage import NOTES
from lightning_robust.data import RobustDataModule
from lightning_robust.evaluation.evaluate import Precision
from lightning_robust.evaluation.targets import Choice
from lightning_robust.publish.evaluate import evaluate
from lightning_robust.publish.robustness_report import RobustnessReport
from lightning_robust.utils.files import atomic_write, inner_folder


def evaluation(args: Sequence[str]) -> RobustnessReport:
    """Run `lightning-robust evaluate --net NET --data DATA [--threat ...] [--attacks ...]`, and print the table.

    Returns:
        The report that is printed.

    Raises:
        UnsoundEvaluation: under `--strict`, if a check does not pass.
    """
    parser = evaluation_parser()
    asked = parser.parse_args(list(args))
    seed_everything(asked.seed, verbose=False)  # a net without weights of its own is made of random numbers
    try:
        data = build(RobustDataModule, asked.data)
        fill_net(asked.net, data)
        _tell_untrained("net", asked.net)
        net = build(nn.Module, asked.net)
        check_held_out(asked.net, data)
        attacks: dict[str, Any] = named_attacks(listed(asked.attacks))
        if asked.surrogate is not None:
            fill_net(asked.surrogate, data)
            _tell_untrained("surrogate", asked.surrogate)
            surrogate = build(nn.Module, asked.surrogate)
            _tell_stopping(attacks)
            attacks = {f"transfer-{name}": Transfer(attack, surrogate) for name, attack in attacks.items()}
        threats = threat_list(asked.threat)
    except (ImportError, TypeError, ValueError) as error:
        parser.error(str(error), error)
    place = Path("runs", type(data).__name__)
    config = parser.dump(asked.clone(with_meta=False))
    out = Path(asked.out or place / run_name("evaluate", place, None, lambda: config))
    with calm():
        report = evaluate(
            net,
            data,
            threats,
            attacks,
            samples=asked.samples,
            seed=asked.seed,
            precision=asked.precision,
            calibration=asked.calibration,
            targets=asked.targets,
            check_samples=asked.check_samples,
            image_memory=asked.image_memory,
            accelerator=asked.trainer.accelerator,
            devices=asked.trainer.devices,
            strategy=asked.trainer.strategy,
            out=out,
            state_dir=inner_folder(place, "unfinished") if asked.out is None else None,
            progress=sys.stdout.isatty(),
        )
    if launched_rank():
        return report
    report.to_json(out / "summary.json")
    with atomic_write(out / "config.yaml") as beside:
        beside.write_text(config)
    console = Console()
    for table in report.tables().values():
        console.print(table)
    for doubt in report.doubts():
        console.print(doubt, style="yellow", markup=False, highlight=False)
    console.print(f"Everything lies in {out}. For a page: lightning-robust report {out}", highlight=False, markup=False)
    if asked.strict and not report.sound:
        raise UnsoundEvaluation(f"Checks of the evaluation did not pass: {' '.join(report.doubts())}")
    return report


def _tell_untrained(what: str, net: Any) -> None:
    """Warn of a net of this package or of a library that has no trained weights."""
    settings = net.get("init_args") or {}
    kind = str(net.class_path).rpartition(".")[2]
    ours = str(net.class_path).startswith("lightning_robust.")
    trained = kind in ("Pretrained", "RobustBenchModel") or any(settings.get(key) for key in ("pretrained", "weights"))
    if ours and not trained and not launched_rank():
        print(
            f"warning: The {what} {kind} has no trained weights: name a checkpoint or an exported folder, or set "
            f"--{what}.pretrained true (timm, hf) or --{what}.weights DEFAULT (torchvision).",
            file=sys.stderr,
        )


def _tell_stopping(attacks: Mapping[str, Attack]) -> None:
    """Warn of attacks whose examples on a surrogate go no further than its error."""
    stopping = [name for name, attack in attacks.items() if attack.stages or attack.minimizes]
    if stopping and not launched_rank():
        print(
            f"warning: {', '.join(stopping)} stops where the surrogate errs, and such examples transfer less: "
            "give --attacks pgd50 too.",
            file=sys.stderr,
        )


def listed(text: str) -> list[str]:
    """Split a list at its commas.

    Example:
        >>> listed("pgd50, fab")
        ['pgd50', 'fab']
    """
    return [part.strip() for part in text.split(",") if part.strip()]


def threat_list(text: str) -> list[str]:
    """Read a list of threats; one without a norm has that of the one before it.

    Example:
        >>> threat_list("linf 2/255, 4/255, l2 0.5")
        ['linf 2/255', 'linf 4/255', 'l2 0.5']
    """
    found: list[str] = []
    for part in listed(text):
        norm = found[-1].split()[0] if found else ""
        found.append(part if " " in part or not norm else f"{norm} {part}")
    return found


def evaluation_parser() -> Parser:
    """Build the parser of `evaluate`."""
    parser = Parser(prog="lightning-robust evaluate", description=NOTES["evaluate"])
    parser.add_argument("-c", "--config", action=ConfigFile, help="YAML file with any of these settings.")
    parser.add_subclass_arguments(nn.Module, "net", required=True, help="The net, by name or by class (required).")
    parser.add_subclass_arguments(
        RobustDataModule, "data", required=True, help="The data module; its test set is taken (required)."
    )
    parser.add_argument(
        "--threat",
        type=str,
        default="linf 8/255",
        help="Norm and radius, or several: 'linf 2/255, 4/255, 8/255, l2 0.5'.",
    )
    parser.add_argument("--attacks", type=str, default="autoattack", help="Attacks by name: 'pgd50, fab'.")
    parser.add_subclass_arguments(
        nn.Module, "surrogate", required=False, help="Craft the examples on this net (transfer)."
    )
    parser.add_argument(
        "--samples", type=PositiveInt | None, default=None, help="Use only the first N images; by default all."
    )
    parser.add_argument("--seed", type=int, default=0, help="Seed of the attacks' random numbers.")
    parser.add_argument(
        "--precision",
        type=Precision,
        default="fp32",
        help="'bf16' runs the attacks in bf16.",
    )
    parser.add_argument("--calibration", type=bool, default=False, help="Also report ECE, NLL and Brier score.")
    parser.add_argument(
        "--targets",
        type=int | Choice | list[int] | None,
        default=None,
        help="Targeted attacks too: 3, random, least_likely.",
    )
    parser.add_argument("--check_samples", type=NonNegativeInt, default=64, help="Images for the checks; 0: none.")
    parser.add_argument(
        "--image_memory", type=NonNegativeFloat, default=8.0, help="GiB for waiting images; more go to a file."
    )
    parser.add_argument("--trainer.accelerator", type=str, default="auto", help="As Lightning's Trainer takes it.")
    parser.add_argument("--trainer.devices", type=int | str, default=1, help="How many devices, or which ones.")
    parser.add_argument("--trainer.strategy", type=str, default="auto", help="As Lightning's Trainer takes it.")
    parser.add_argument("--out", type=str | None, default=None, help="Folder for results; by default in runs/<data>.")
    parser.add_argument("--strict", type=bool, default=False, help="End with status 3 if a check does not pass.")
    return parser
