"""Results in the form of RobustBench's leaderboard: `lightning-robust leaderboard`."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lightning_robust.threat import radius_text
from lightning_robust.types import to_float
from lightning_robust.utils.files import atomic_write
from lightning_robust.utils.messages import describe_error

THREATS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
"""RobustBench's names of our norms."""


class Benchmark(NamedTuple):
    """What a leaderboard compares at.

    Args:
        eps: the radius as it is written there.
        n: number of test images.
    """

    eps: str
    n: int


BENCHMARKS = {
    ("cifar10", "Linf"): Benchmark("8/255", 10_000),
    ("cifar10", "L2"): Benchmark("0.5", 10_000),
    ("cifar100", "Linf"): Benchmark("8/255", 10_000),
    ("imagenet", "Linf"): Benchmark("4/255", 5_000),
}
"""Reference: RobustBench/robustbench@78fcc9e, model_info."""


def model_info(
    report: Mapping[str, Any],
    *,
    dataset: Literal["cifar10", "cifar100", "imagenet"],
    name: str,
    link: str,
    authors: str,
    venue: str,
    architecture: str,
    additional_data: bool,
    number_forward_passes: int = 1,
    reported: str | None = None,
    footnote: str | None = None,
    attack: str | None = None,
    any_setting: bool = False,
) -> dict[str, Any]:
    """Return the fields of a file in RobustBench's `model_info/<dataset>/<threat>`, with accuracies in percent.

    "unreliable" is whether a check of the evaluation failed. Where other attacks of the same evaluation broke further
    samples, the worst case is "external", as for an adaptive attack.

    Args:
        report: the content of `robustness.json`.
        dataset: "cifar10", "cifar100" or "imagenet".
        name: title of the paper.
        link: address of the paper.
        authors: their names, separated by commas.
        venue: such as "ICML 2020" or "arXiv, Mar 2021".
        architecture: such as "WideResNet-28-10".
        additional_data: whether it was trained on additional real images; generated images do not count.
        number_forward_passes: number of forward passes that a prediction takes.
        reported: robust accuracy that the paper reports, in percent; by default the one found here.
        footnote: what else to know.
        attack: the name under which AutoAttack stands in the report, if there are several.
        any_setting: also take another attack, radius or number of samples than the benchmark's, and say so in the
            footnote.

    Raises:
        ValueError: for a result that is not the benchmark's, without `any_setting`.
    """
    key = _chosen(report, attack, any_setting)
    result, threat = report["attacks"][key], _threat(report, key)
    faults = _faults(report, key, BENCHMARKS.get((dataset, threat)))
    if faults and not any_setting:
        raise ValueError(f"This is not what RobustBench compares for {dataset}: {'; '.join(faults)}.")
    found = _percent(result)
    # what attacks of another threat broke says nothing about this one
    worst = _percent(report["worst"]) if isinstance(report["threat"], dict) else found
    notes = [footnote or "", *(f"Deviates from the benchmark: {fault}." for fault in faults)]
    if worst != found:
        others = ", ".join(other for other in report["attacks"] if other != key)
        notes.append(f"{worst}% robust accuracy is due to AutoAttack and {others} together.")
    return {
        "link": link,
        "name": name,
        "authors": authors,
        "additional_data": additional_data,
        "number_forward_passes": number_forward_passes,
        "dataset": dataset,
        "venue": venue,
        "architecture": architecture,
        "eps": _radius(report, key),
        "clean_acc": _percent(report["clean"]),
        "reported": found if reported is None else reported,
        "autoattack_acc": found,
        **({"external": worst} if worst != found else {}),
        **({"footnote": " ".join(filter(None, notes))} if any(notes) else {}),
        "unreliable": any(check["status"] == "fail" for check in report.get("checks", ())),
    }


def evaluation_log(report: Mapping[str, Any]) -> str:
    """Return as Markdown what was evaluated, how, and the accuracy after each attack and each of its parts."""
    weights, n = report.get("checkpoint") or {"weights": "as the net was built"}, report["n"]
    lines = [f"- {key}: {value}" for key, value in {**weights, **report["versions"]}.items()]
    lines += [f"- {key}: {report[key]}" for key in ("seed", "devices", "precision") if key in report]
    for name, row in {"clean": report["clean"], **report["attacks"], "worst case": report["worst"]}.items():
        parts = {f"{name} after {part['name']}": part for part in row.get("stages", ())}
        for label, cell in {**parts, name: row}.items():
            seconds = f", {cell['seconds']:.1f} s" if "seconds" in cell else ""
            lines.append(f"- {label}: {_percent(cell)}% ({cell['correct']} of {n}{seconds})")
    lines += [f"- {check['status']}: {check['sentence']}" for check in report.get("checks", ())]
    settings = {name: row["attack"] for name, row in report["attacks"].items()}
    return "\n".join([*lines, "", "```json", json.dumps(settings, indent=2), "```", ""])


def export(report: str, model_id: str, folder: str = "model_info", **about: Any) -> str:
    """Write `<folder>/<dataset>/<threat>/<model_id>.json` for RobustBench's repository, and the log of it as `.md`.

    Returns a line that says what was written.

    Args:
        report: the `robustness.json` that `lightning-robust test` wrote.
        model_id: as on the leaderboard: author, year, first word of the title, such as "Rice2020Overfitting".
        folder: where to write.
        about: see `model_info`.

    Raises:
        ValueError: for an unreadable report, an ID that is no file name, or a result that is not the benchmark's.
    """
    if not re.fullmatch(r"\w[\w.-]*", model_id):
        raise ValueError(f"model_id names a file: use letters, digits, - and _, got {model_id!r}.")
    try:
        content = json.loads(Path(report).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{report!r} cannot be read as a robustness.json: {error}.") from error
    try:
        info = model_info(content, **about)
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{report!r} cannot be read as a robustness.json ({describe_error(error)})") from error
    threat = _threat(content, _chosen(content, about.get("attack"), about.get("any_setting", False)))
    path = Path(folder, info["dataset"], threat, f"{model_id}.json")
    for place, text in {
        path: json.dumps(info, indent=2),
        path.with_suffix(".md"): f"# {model_id}\n\n{evaluation_log(content)}",
    }.items():
        with atomic_write(place) as beside:
            beside.write_text(text)
    return f"{path}: clean {info['clean_acc']}%, AutoAttack {info['autoattack_acc']}%; log in {path.with_suffix('.md')}"


def _chosen(report: Mapping[str, Any], attack: str | None, any_setting: bool) -> str:
    """The attack whose result counts: standard AutoAttack, unless another is allowed."""
    names = [attack] if attack is not None else [name for name in report["attacks"] if _is_standard(report, name)]
    if not names and any_setting:
        names = list(report["attacks"])
    if len(names) != 1 or names[0] not in report["attacks"]:
        raise ValueError(
            f"The report has {', '.join(report['attacks']) or 'no attacks'}: it needs one standard AutoAttack, or "
            "`attack` must say which of them counts."
        )
    return names[0]


def _faults(report: Mapping[str, Any], key: str, benchmark: Benchmark | None) -> list[str]:
    """Return in what the result differs from what the benchmark asks for."""
    if benchmark is None:
        return [f"it has no leaderboard for {_threat(report, key)}"]
    eps, n = report["attacks"][key]["attack"]["threat"]["eps"], report["n"]
    faults = [] if _is_standard(report, key) else [f"{key} is not the standard AutoAttack"]
    if abs(eps - to_float(benchmark.eps)) > 1e-6:
        faults.append(f"eps is {_radius(report, key)}, not {benchmark.eps}")
    if n != benchmark.n:
        faults.append(f"{n} test images, not {benchmark.n}")
    return faults


def _is_standard(report: Mapping[str, Any], key: str) -> bool:
    attack = report["attacks"][key]["attack"]
    return (attack["class"], attack.get("version")) == ("AutoAttack", "standard")


def _threat(report: Mapping[str, Any], key: str) -> str:
    return THREATS[report["attacks"][key]["attack"]["threat"]["norm"]]


def _radius(report: Mapping[str, Any], key: str) -> str:
    """As the leaderboards write it: 8/255 in linf, 0.5 in l2."""
    return radius_text(report["attacks"][key]["attack"]["threat"]["eps"])


def _percent(row: Mapping[str, Any]) -> str:
    return f"{100 * row['accuracy']:.2f}"
