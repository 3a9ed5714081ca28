"""Model cards: the page that says how published weights were trained and how robust they are."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from lightning_robust.evaluation.calibration_table import COLUMNS, number
from lightning_robust.publish.evaluations import RecordedEvaluation
from lightning_robust.threat import Threat
from lightning_robust.utils.extras import import_extra

RECIPE = (
    "`lightning-robust fit --config <this>.yaml`. A recipe is code: whatever it names is imported and called. Read it "
    "before you run it."
)
"""What stands above the recipe."""


def model_card(
    name: str,
    config: Mapping[str, Any],
    report: Mapping[str, Any] | None = None,
    recipe: str | None = None,
    license: str | None = None,
    evaluations: Mapping[str, RecordedEvaluation] | None = None,
) -> str:
    """Return a model card in Markdown, with the front matter of the Hugging Face Hub.

    Every number in it is the evaluation's, or a setting; without an evaluation it says that there was none.

    Args:
        name: of the net, such as `organisation/name`.
        config: the content of the export's `config.json`.
        report: the content of `robustness.json`.
        recipe: the run's `config.yaml`.
        license: identifier of the weights' licence, such as "mit"; left out by default.
        evaluations: all evaluations of these weights, each under its place; they are listed.
    """
    blocks = [
        _front_matter(name, config, report, recipe, license),
        f"# {name}",
        _summary(config),
        "## Robustness",
        *(_evaluation(report) if report else ["No evaluation of these weights was recorded."]),
        *_listed(evaluations or {}),
        "## Use",
        _use(name, config),
        "## Recipe",
        *([RECIPE, _code("yaml", recipe)] if recipe else ["None was recorded."]),
        "## Versions",
        _versions("Exported with", config["versions"]),
        *([_versions("Evaluated with", report["versions"])] if report else []),
        f"SHA-256 of `model.safetensors`: `{config['sha256']}`",
    ]
    return "\n\n".join(blocks) + "\n"


def _front_matter(
    name: str, config: Mapping[str, Any], report: Mapping[str, Any] | None, recipe: str | None, license: str | None
) -> str:
    hub = import_extra("huggingface_hub", "zoo")
    threat = [config["threat"]["norm"]] if config["threat"] else []
    data = hub.ModelCardData(
        license=license,
        library_name="lightning-robust",
        pipeline_tag="image-classification",
        tags=["adversarial-robustness", "lightning-robust", config["defense"].lower(), *threat],
        model_name=name if report else None,
        eval_results=[hub.EvalResult(**row) for row in _results(report, _data(recipe))] if report else None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _results(report: Mapping[str, Any], data: str) -> Iterator[dict[str, Any]]:
    """Give the clean accuracy, and that under each attack, in the form of the Hub's index of models."""
    common = {
        "task_type": "image-classification",
        "dataset_type": data.lower(),
        "dataset_name": data,
        "dataset_split": report.get("stage", "test"),
        "metric_type": "accuracy",
    }
    yield {**common, "metric_name": "clean accuracy", "metric_value": report["clean"]["accuracy"]}
    for key, row in report["attacks"].items():
        told = f"robust accuracy ({key}, {Threat(**row['attack']['threat'])})"
        yield {**common, "metric_name": told, "metric_value": row["accuracy"]}


def _data(recipe: str | None) -> str:
    """Return the name of the data that a recipe names."""
    try:
        return str(yaml.safe_load(recipe or "")["data"]["class_path"]).rpartition(".")[2]
    except (yaml.YAMLError, LookupError, TypeError):
        return "unknown"


def _listed(evaluations: Mapping[str, RecordedEvaluation]) -> Iterator[str]:
    """List all evaluations of the weights, if there are several."""
    if len(evaluations) < 2:
        return
    lines = ["| evaluation | threat | attacks | images | clean | worst case |", "|---|---|---|---|---|---|"]
    for place, evaluation in evaluations.items():
        report, threats = evaluation.report, " and ".join(evaluation.threats)
        accuracies = f"{report['clean']['accuracy']:.2%} | {report['worst']['accuracy']:.2%}"
        lines.append(f"| {place} | {threats} | {', '.join(report['attacks'])} | {report['n']} | {accuracies} |")
    yield "All evaluations of these weights that lay beside their training; the table above is of the strongest:"
    yield "\n".join(lines)


def _summary(config: Mapping[str, Any]) -> str:
    net, threat = config["net"], config["threat"]
    what = "An image classifier" if net is None else f"An image classifier, `{net['class_path']}`,"
    against = f" against {Threat(**threat)}" if threat else ""
    sentences = [
        f"{what} trained by {config['defense']}{against}.",
        f"It takes images in [0, 1]{_of(config)}; normalisation is part of it.",
        f"The weights are those after epoch {config['epoch']} (the first is 0)"
        + (", averaged over training." if config["averaged"] else "."),
    ]
    return " ".join(sentences)


def _of(config: Mapping[str, Any]) -> str:
    channels, classes = config["in_channels"], config["num_classes"]
    parts = [f" of {channels} channel{'s' if channels > 1 else ''}"] if channels else []
    return "".join([*parts, f" and gives {classes} logits" if classes else ""])


def _evaluation(report: Mapping[str, Any]) -> Iterator[str]:
    """The table, what was wrong with the evaluation, and the attacks' settings."""
    yield (
        f"On {report['n']} images of the {report.get('stage', 'test')} set, seed {report.get('seed')}; accuracies with "
        "95 % confidence intervals (Wilson)."
    )
    rows = [("clean", "", report["clean"])]
    rows += [(key, str(Threat(**row["attack"]["threat"])), row) for key, row in report["attacks"].items()]
    rows.append(("worst case", "", report["worst"]))
    lines = ["| evaluation | threat | accuracy | correct | 95 % interval |", "|---|---|---|---|---|"]
    for key, threat, row in rows:
        low, high = row["confidence_interval"]
        found = f"{row['accuracy']:.2%} | {row['correct']}/{report['n']} | {low:.2%} to {high:.2%}"
        lines.append(f"| {key} | {threat} | {found} |")
    yield "\n".join(lines)
    if "calibration" in report:
        yield "\n".join(_calibration(report["calibration"]))
    doubts = [f"- {check['status']}: {check['sentence']}" for check in report["checks"] if check["status"] != "pass"]
    if not report["checks"]:
        yield "It was not checked."
    else:
        yield "\n".join(doubts) or "Every check of the evaluation passed."
    yield "The attacks (`robustness.json` holds the whole report):"
    yield _code("json", json.dumps({key: row["attack"] for key, row in report["attacks"].items()}, indent=2))


def _calibration(told: Mapping[str, Mapping[str, float | None]]) -> Iterator[str]:
    yield f"| calibration | {' | '.join(COLUMNS.values())} |"
    yield f"|---|{'---|' * len(COLUMNS)}"
    for key, row in told.items():
        yield f"| {'worst case' if key == 'worst' else key} | {' | '.join(number(row[name]) for name in COLUMNS)} |"


def _use(name: str, config: Mapping[str, Any]) -> str:
    source = json.dumps(name)
    if config["loadable"]:
        lines = [
            "from lightning_robust.models import from_pretrained",
            "",
            f"net = from_pretrained({source})",
        ]
    else:
        lines = [
            "from lightning_robust.models import load_weights",
            "",
            f"load_weights(net, {source}).eval()",
        ]
    return _code("python", "\n".join([*lines, "logits = net(images)  # [b c h w] in [0, 1] to [b k]"]))


def _versions(what: str, versions: Mapping[str, str | None]) -> str:
    return f"{what}: {', '.join(f'{package} {version}' for package, version in versions.items() if version)}."


def _code(language: str, text: str) -> str:
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 0)  # longer than any in the text
    return f"{fence}{language}\n{text.strip()}\n{fence}"
