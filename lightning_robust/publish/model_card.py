"""Model cards: the page that says how published weights were trained and how robust they are."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from lightning_robust.threat import Threat

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
) -> str:
    """Return a model card in Markdown, with the front matter of the Hugging Face Hub.

    Every number in it is the evaluation's, or a setting; without an evaluation it says that there was none.

    Args:
        name: of the net, such as `organisation/name`.
        config: the content of the export's `config.json`.
        report: the content of `robustness.json`.
        recipe: the run's `config.yaml`.
        license: identifier of the weights' licence, such as "mit"; left out by default.
    """
    blocks = [
        _front_matter(config, license),
        f"# {name}",
        _summary(config),
        "## Robustness",
        *(_evaluation(report) if report else ["No evaluation of these weights was recorded."]),
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


def _front_matter(config: Mapping[str, Any], license: str | None) -> str:
    threat = [config["threat"]["norm"]] if config["threat"] else []
    tags = ["adversarial-robustness", "lightning-robust", config["defense"].lower(), *threat]
    entries = {"license": license, "library_name": "lightning-robust", "pipeline_tag": "image-classification"}
    lines = [f"{key}: {json.dumps(value)}" for key, value in {**entries, "tags": tags}.items() if value is not None]
    return "\n".join(["---", *lines, "---"])


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
    doubts = [f"- {check['status']}: {check['sentence']}" for check in report["checks"] if check["status"] != "pass"]
    if not report["checks"]:
        yield "It was not checked."
    else:
        yield "\n".join(doubts) or "Every check of the evaluation passed."
    yield "The attacks (`robustness.json` holds the whole report):"
    yield _code("json", json.dumps({key: row["attack"] for key, row in report["attacks"].items()}, indent=2))


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
