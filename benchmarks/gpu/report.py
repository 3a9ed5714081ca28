"""The tables of a run on a GPU, from the lines that it left."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.common.tables import Row, write
from benchmarks.gpu.lines import PARTS, Line, Setup

TITLES = {
    "smoke": "What must hold on the device",
    "throughput": "Training steps beside the peers",
    "autoattack": "AutoAttack's standard version",
    "recipe": "An epoch of a CIFAR-10 recipe",
    "fashion": "Adversarial training on Fashion-MNIST",
}
CAPTIONS = {
    "smoke": (
        "Recipes of configs/digits: two steps with all parts at work, loss and weights finite. Settings: the first "
        "loss of AT near that in fp32. No waiting: a step under `torch.cuda.set_sync_debug_mode('error')`, and the "
        "waits that the profiler counts. Verdicts: those of an adversarially trained net on digits, on the CPU and on "
        "the device, without TF32; all the same in fp64, 99 % in fp32."
    ),
    "throughput": (
        "A step of PGD-10 at linf 8/255 in a bare loop on a batch that waits on the device, attack, loss and SGD; "
        "medians of interleaved rounds. FLOP/s count what the method's definition asks for, whatever a contender "
        "does; the peak is that of the precision, without sparsity. MiB: what a contender allocates beyond the net and "
        "the batch that all share. Loops as the authors' are written from their repositories' descriptions."
    ),
    "autoattack": (
        "Digits in colours, 3 x 32 x 32, at linf 0.02 on a ResNet-18 of some hundred steps of adversarial training; "
        "seconds by stage."
    ),
    "recipe": (
        "configs/cifar10/at.yaml by the command line's fit on random images of CIFAR-10's form, batch and number; "
        "the median step times the steps of an epoch, without validation."
    ),
    "fashion": (
        "The recipe of configs/fashion_mnist with PreActResNet-18, batch 512, bf16-mixed, channels_last, on_device; as "
        "many epochs as fitted into the time left. Accuracies in percent."
    ),
}


def tables(setup: Setup) -> tuple[list[Line], list[str]]:
    """Write the table of each part that has lines; returns all lines, and the tables' texts."""
    found: list[Line] = []
    texts: list[str] = []
    for part in PARTS:
        lines = list(setup.lines(part).values())
        if lines:
            rows = even(throughput(lines) if part == "throughput" else map(row, lines))
            name = f"gpu_{part}_{setup.label}"
            texts.append(write(name, f"{TITLES[part]}: {setup.name}", rows, CAPTIONS[part], setup.results))
        found += lines
    return found, texts


def row(line: Line) -> Row:
    """A line with what was measured."""
    return {"case": line.case, "status": line.status, "note": line.note, **line.found}


def throughput(lines: Iterable[Line]) -> list[Row]:
    """A row for each contender of a case."""
    rows: list[Row] = []
    for line in lines:
        setting, net, method = [*line.case.split("; "), "", ""][:3]
        contenders: Mapping[str, Mapping[str, Any]] = line.found or {"ours": {}}
        for who, found in contenders.items():
            failed = {"status": "failed", "note": found["failed"]} if "failed" in found else {}
            values = {key: value for key, value in found.items() if key != "failed"}
            where: Row = {"net": net, "method": method, "setting": setting, "who": who}
            rows.append({**where, "status": line.status, "note": line.note, **values, **failed})
    if not any("torchattacks" in str(row["who"]) for row in rows):
        rows.append({**dict.fromkeys(("net", "setting"), ""), "method": "AT", "who": "torchattacks",
                     "status": "not applicable", "note": "not installed, or AT was not measured"})  # fmt: skip
    return rows


def even(rows: Iterable[Row]) -> Sequence[Row]:
    """The same columns in each row, status and note last."""
    rows = list(rows)
    columns = [key for key in dict.fromkeys(key for row in rows for key in row) if key not in ("status", "note")]
    return [{key: row.get(key, "") for key in (*columns, "status", "note")} for row in rows]
