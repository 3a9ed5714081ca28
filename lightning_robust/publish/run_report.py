"""`lightning-robust report`: a run on one page, which needs no network and no other file."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_robust.evaluation.calibration_table import number
from lightning_robust.evaluation.targets_table import success_rows
from lightning_robust.publish.confusion import confusion, under_attack
from lightning_robust.publish.evaluations import RecordedEvaluation
from lightning_robust.publish.page import render, write_page
from lightning_robust.publish.run_charts import robustness_charts, training_charts
from lightning_robust.publish.run_examples import examples
from lightning_robust.publish.run_files import Run
from lightning_robust.threat import Threat
from lightning_robust.utils.writers import write_figures

STATUS = {"pass": 0, "warn": 1, "fail": 2}


def write_report(run: str, out: str | None = None, figures: str | None = None) -> list[Path]:
    """Write a page about a run: what was trained, how robust it is, and whether that can be trusted.

    Args:
        run: the folder of a run of `fit`, `test` or `evaluate`, or a `robustness.json`.
        out: the file to write; by default `report.html` in the run's folder.
        figures: a folder for the charts as PDF and SVG; by default they stand in the page alone.

    Returns:
        The path of the page, and those of the charts.

    Raises:
        FileExistsError: if another file lies at `out`.
        ValueError: if `run` is no run.
    """
    found = Run.read(run)
    path = found.folder / "report.html" if out is None else Path(out)
    write_page(report_page(found), path)
    if figures is None:
        return [path]
    charts = [*training_charts(found), *(robustness_charts(found.evaluation) if found.evaluation else ())]
    return [path, *write_figures({chart.name: chart.figure for chart in charts}, figures, ("pdf", "svg"))]


def report_page(run: Run) -> str:
    """Return the page about a run as HTML."""
    evaluation = run.evaluation
    content: dict[str, Any] = {
        "title": _title(run),
        "summary": _summary(run),
        "report": None,
        "attacks": {},
        "warnings": [],
        "robust_charts": [],
        "confusion": None,
        "examples": [],
        "training_charts": list(training_charts(run)),
        "others": [_other(run, other) for other in run.others],
        "commands": _commands(run),
        "facts": list(_facts(run)),
        "attack_settings": None,
        "config": run.config_text,
    }
    if evaluation is not None:
        report = evaluation.report
        content |= {
            "report": report,
            "attacks": evaluation.attacks,
            "threats": " and ".join(evaluation.threats),
            "stage": _stage(report),
            "number": number,
            "targeted": list(success_rows(report.get("targeted", {}))),
            "verdict": _verdict(report["checks"]),
            "checks": sorted(report["checks"], key=lambda check: -STATUS[check["status"]]),
            "warnings": list(_warnings(evaluation)),
            "examples": list(examples(evaluation)),
            "robust_charts": list(robustness_charts(evaluation)),
            "confusion": _confusion(evaluation),
            "attack_settings": json.dumps({name: row["attack"] for name, row in report["attacks"].items()}, indent=2),
        }
    return render("report.html", **content)


def _title(run: Run) -> str:
    model, net, data = (_class(run.config.get(section)) for section in ("model", "net", "data"))
    if (model or net) and data:
        return f"{model or _net_name(run.config['net'])} on {data}"
    return run.folder.resolve().name


def _class(section: Any) -> str | None:
    path = section.get("class_path") if isinstance(section, Mapping) else None
    return None if path is None else str(path).rpartition(".")[2]


def _net_name(net: Mapping[str, Any]) -> str:
    """Name a net by the library's name for it if it has one, else by its class."""
    settings = net.get("init_args") or {}
    return str(settings.get("name") or settings.get("source") or _class(net))


def _summary(run: Run) -> str:
    told = run.config.get("model", {}).get("init_args", {}) if isinstance(run.config.get("model"), Mapping) else {}
    net, attack = told.get("net"), told.get("attack")
    parts = []
    if net:
        parts.append(f"net {net if isinstance(net, str) else _net_name(net)}")
    threat = attack.get("init_args", {}).get("threat") if isinstance(attack, Mapping) else None
    if isinstance(threat, Mapping) and _class(run.config["model"]) != "Standard":
        parts.append(f"trained against {Threat(**threat)}")
    epochs = max((max(values) for values in run.curves.values()), default=None)
    if epochs is not None:
        parts.append(f"{epochs + 1} epoch{'s' if epochs else ''}")
    parts.append(str(run.folder))
    return ", ".join(parts)


def _stage(report: Mapping[str, Any]) -> str:
    stages = {"test": "of the test set", "validate": "of the validation set", "fit": "of the validation set, in fit"}
    return stages.get(str(report.get("stage")), "")


def _verdict(checks: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Put the results of all checks into one word."""
    if not checks:
        return {"status": "warn", "word": "none", "detail": "this evaluation was not checked"}
    worst = max((check["status"] for check in checks), key=STATUS.__getitem__)
    doubtful = sum(check["status"] != "pass" for check in checks)
    detail = f"{len(checks) - doubtful} of {len(checks)} passed"
    return {"status": worst, "word": {"pass": "passed", "warn": "doubtful", "fail": "failed"}[worst], "detail": detail}


def _warnings(evaluation: RecordedEvaluation) -> Iterator[str]:
    report = evaluation.report
    if "trained_at" in report:
        yield f"The net was trained against {report['trained_at']} and evaluated at {' and '.join(evaluation.threats)}."
    if len(evaluation.threats) > 1:
        yield "The worst case is over several threats: an image counts as correct only if it withstands all of them."
    if report.get("stage") == "fit":
        weights = report.get("weights", "the last validation's weights")
        yield (
            f"These are the validation's numbers within the training ({weights}), under its cheaper attacks: they "
            "helped to choose the checkpoint. Run `lightning-robust test` for numbers to report."
        )


def _confusion(evaluation: RecordedEvaluation) -> dict[str, Any] | None:
    samples, names = evaluation.samples, evaluation.class_names
    if samples is None or not evaluation.attacks or not len(samples):
        return None
    told = confusion(samples.y, under_attack(samples, list(evaluation.attacks)), names)
    caption = (
        "In the worst case: the prediction on the example that broke the image, or the clean prediction where none did."
    )
    return {**told, "names": names, "caption": caption}


def _other(run: Run, other: RecordedEvaluation) -> dict[str, Any]:
    parent = run.folder.resolve().parent
    path = other.path.resolve()
    place = path.relative_to(parent) if path.is_relative_to(parent) else path
    return {
        "place": str(place),
        "report": other.report,
        "threats": " and ".join(other.threats),
        "attacks": ", ".join(other.attacks),
    }


def _commands(run: Run) -> str | None:
    """Return the commands that made the run."""
    lines = []
    if run.trained is not None:
        lines.append(f"lightning-robust fit --config {shlex.quote(str(run.trained / 'config.yaml'))}")
    if "net" in run.config:
        return f"lightning-robust evaluate --config {shlex.quote(str(run.folder / 'config.yaml'))}"
    if run.evaluation is not None and run.evaluation.report.get("stage") == "test":
        config = run.evaluation.path.with_name("config.yaml")  # it names the checkpoint
        lines += [f"lightning-robust test --config {shlex.quote(str(config))}"] if config.is_file() else []
    return "\n".join(lines) or None


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    if run.evaluation is not None:
        report = run.evaluation.report
        checkpoint = report.get("checkpoint") or {}
        for key in ("path", "sha256"):
            if key in checkpoint:
                yield f"checkpoint{' SHA-256' if key == 'sha256' else ''}", checkpoint[key]
        for key in ("weights", "seed", "precision", "devices"):
            if report.get(key) is not None:
                yield key, str(report[key])
        yield "versions", ", ".join(f"{name} {told}" for name, told in report.get("versions", {}).items() if told)
