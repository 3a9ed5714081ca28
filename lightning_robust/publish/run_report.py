"""`lightning-robust report`: a run on one page, which needs no network and no other file."""

import base64
import io
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from lightning_robust.evaluation.accuracy_figures import accuracy_by_class, accuracy_by_radius
from lightning_robust.evaluation.samples import Samples
from lightning_robust.publish.charts import curves_chart, radii_chart
from lightning_robust.publish.confusion import confusion, under_attack
from lightning_robust.publish.evaluations import RecordedAttack, RecordedEvaluation
from lightning_robust.publish.page import render, write_page
from lightning_robust.publish.run_files import Run
from lightning_robust.publish.svg import themed_svg
from lightning_robust.threat import Threat
from lightning_robust.utils.files import atomic_write

STATUS = {"pass": 0, "warn": 1, "fail": 2}
MOST_CURVES = 8
"""How many further panels of logged numbers a page has at most."""


class Chart(NamedTuple):
    """A chart of a report.

    Args:
        name: of its file.
        figure: what is drawn.
        caption: what stands below it.
    """

    name: str
    figure: Figure
    caption: str

    @property
    def svg(self) -> Markup:
        """The figure in the colours of the page; matplotlib escapes the text in it."""
        return Markup(themed_svg(self.figure, self.name))


def save_charts(run: str, folder: str | Path, formats: Sequence[str]) -> list[Path]:
    """Write the charts of a report as files, such as a paper takes.

    Args:
        run: the folder of a run, or a `robustness.json`.
        folder: where to write; what lies there under the same name is replaced.
        formats: "pdf", "svg" or "png".

    Returns:
        The paths written.
    """
    found = Run.read(run)
    samples = found.evaluation.samples if found.evaluation else None
    charts = list(_training_charts(found))
    if found.evaluation is not None and samples is not None:
        charts += _robust_charts(found.evaluation, samples, class_names(found.evaluation, samples))
    paths = []
    for chart in charts:
        for kind in formats:
            path = Path(folder, f"{chart.name}.{kind}")
            with atomic_write(path) as beside:
                chart.figure.savefig(beside, format=kind, dpi=150)
            paths.append(path)
    return paths


def write_report(run: str, out: str | None = None) -> str:
    """Write a page about a run: what was trained, how robust it is, and whether that can be trusted.

    Args:
        run: the folder of a run of `fit`, `test` or `evaluate`, or a `robustness.json`.
        out: the file to write; by default `report.html` in the run's folder.

    Returns:
        The path of the page.

    Raises:
        FileExistsError: if another file lies at `out`.
        ValueError: if `run` is no run.
    """
    found = Run.read(run)
    path = found.folder / "report.html" if out is None else Path(out)
    write_page(report_page(found), path)
    return str(path)


def report_page(run: Run) -> str:
    """Return the page about a run as HTML."""
    evaluation = run.evaluation
    samples = evaluation.samples if evaluation else None
    names = class_names(evaluation, samples)
    content: dict[str, Any] = {
        "title": _title(run),
        "summary": _summary(run),
        "report": None,
        "attacks": {},
        "warnings": [],
        "robust_charts": [],
        "confusion": None,
        "examples": [],
        "training_charts": list(_training_charts(run)),
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
            "verdict": _verdict(report["checks"]),
            "checks": sorted(report["checks"], key=lambda check: -STATUS[check["status"]]),
            "warnings": list(_warnings(evaluation)),
            "examples": list(_examples(evaluation, names)),
            "attack_settings": json.dumps({name: row["attack"] for name, row in report["attacks"].items()}, indent=2),
        }
        if samples is not None:
            content["robust_charts"] = list(_robust_charts(evaluation, samples, names))
            content["confusion"] = _confusion(evaluation, samples, names)
    return render("report.html", **content)


def class_names(evaluation: RecordedEvaluation | None, samples: Samples | None) -> list[str]:
    """Return the names of the classes; their numbers where the data have none."""
    if evaluation is None or samples is None:
        return []
    predicted = [verdicts.predicted for verdicts in samples.verdicts.values()]
    most = max((int(column.max()) for column in (samples.y, samples.clean, *predicted) if len(column)), default=-1)
    known = evaluation.classes or []
    return [*known, *map(str, range(len(known), most + 1))]


def _title(run: Run) -> str:
    model, net, data = (_class(run.config.get(section)) for section in ("model", "net", "data"))
    if (model or net) and data:
        return f"{model or _net_name(run.config['net'])} on {data}"
    return run.folder.resolve().name


def _class(section: Any) -> str | None:
    path = section.get("class_path") if isinstance(section, Mapping) else None
    return None if path is None else str(path).rpartition(".")[2]


def _net_name(net: Mapping[str, Any]) -> str:
    """Name a net that was evaluated without a training, by the library's name for it if it has one."""
    settings = net.get("init_args") or {}
    return str(settings.get("name") or settings.get("source") or _class(net))


def _summary(run: Run) -> str:
    told = run.config.get("model", {}).get("init_args", {}) if isinstance(run.config.get("model"), Mapping) else {}
    net, attack = told.get("net"), told.get("attack")
    parts = []
    if net:
        parts.append(f"net {net if isinstance(net, str) else _class(net)}")
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


def _robust_charts(evaluation: RecordedEvaluation, samples: Samples, names: Sequence[str]) -> Iterator[Chart]:
    attacks: Any = evaluation.attacks
    drawn = accuracy_by_radius(samples, attacks)
    if drawn is not None:
        caption = "Accuracy by radius, from the nearest example found for each image; bands are 95 % intervals."
        yield Chart("radius", drawn, caption)
    if attacks:
        yield Chart("classes", accuracy_by_class(samples, attacks, names), "Accuracy by class, with 95 % intervals.")


def _confusion(evaluation: RecordedEvaluation, samples: Samples, names: Sequence[str]) -> dict[str, Any] | None:
    if not evaluation.attacks or not len(samples):
        return None
    told = confusion(samples.y, under_attack(samples, list(evaluation.attacks)), names)
    caption = (
        "In the worst case: the prediction on the example that broke the image, or the clean prediction where none did."
    )
    return {**told, "names": names, "caption": caption}


def _examples(evaluation: RecordedEvaluation, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """List the examples that the evaluation left, as images within the page."""
    path = evaluation.beside("examples", ".npz")
    if not path.is_file():
        return
    with np.load(path, allow_pickle=False) as kept:
        columns = {name: kept[name] for name in kept.files}
    for i in range(len(columns["index"])):
        y, before, after = (_name(names, int(columns[key][i])) for key in ("label", "clean", "predicted"))
        broken, attack = bool(columns["broken"][i]), str(columns["attack"][i])
        how = _how(evaluation.attacks[attack], attack, float(columns["size"][i]), broken)
        yield {
            "clean": _image(columns["x"][i]),
            "adversarial": _image(columns["x_adv"][i]),
            "perturbation": _image(columns["perturbation"][i]),
            "before": before,
            "after": after,
            "broken": broken,
            "times": f"times {columns['times'][i]:.3g}" if columns["times"][i] else "none",
            "told": f"{y}; image {int(columns['index'][i])}; {how}",
        }


def _how(attack: RecordedAttack, name: str, size: float, broken: bool) -> str:
    """Say whether an image was broken, and how far away the example is."""
    distance = f"{attack.threat.norm} distance {size:.4g}"
    if broken:
        return f"broken by {name}, {distance}"
    return f"nearest example of {name} beyond the radius, {distance}" if attack.minimizes else f"withstands {name}"


def _name(names: Sequence[str], label: int) -> str:
    return names[label] if 0 <= label < len(names) else str(label)


def _image(pixels: np.ndarray[Any, Any]) -> str:
    """Turn pixels [h w c] of 8 bits into the address of an image that holds itself."""
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    written = io.BytesIO()
    small = max(picture.size) <= 64
    picture.save(written, "PNG") if small else picture.save(written, "WEBP", quality=88)
    kind = "png" if small else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(written.getvalue()).decode()}"


def _training_charts(run: Run) -> Iterator[Chart]:
    """Draw what the training logged: loss, accuracies, and whatever else the method follows."""
    curves = {name: values for name, values in run.curves.items() if not name.startswith("test/")}
    losses = {name: values for name, values in curves.items() if name.endswith("/loss")}
    shares = {name: values for name, values in curves.items() if name.endswith("_acc")}
    rest = {name: values for name, values in curves.items() if name not in losses and name not in shares}
    if losses:
        yield Chart("loss", curves_chart(losses, "loss"), "Loss by epoch.")
    if shares:
        drawn = curves_chart(shares, "accuracy, %", percent=True)
        yield Chart("accuracy", drawn, "Accuracy by epoch, in training and in validation.")
    radii = {name: rest.pop(name) for name in list(rest) if name.startswith("train/radius_q")}
    if radii:
        drawn = curves_chart(radii, "radius")
        yield Chart("radius-quantiles", drawn, "Quantiles of the training samples' radii (IAAT).")
    if run.radii is not None:
        yield Chart("radii", radii_chart(run.radii), f"Radii of {len(run.radii)} training samples (IAAT).")
    for name, values in list(rest.items())[:MOST_CURVES]:
        yield Chart(name.replace("/", "-"), curves_chart({name: values}, name.rpartition("/")[2]), f"{name} by epoch.")


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
