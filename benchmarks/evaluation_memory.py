"""The peak memory of an evaluation by the number of images, and its time: 8 bits, floats, and floats in a file.

python -m benchmarks.evaluation_memory [--n 2000] [--size 112]
"""

import resource
import tempfile
import time
from typing import Any, NamedTuple

import torch
from jsonargparse import auto_cli
from lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.common.processes import prepare, workers
from benchmarks.common.tables import Row, required, write
from lightning_robust.attacks import APGD
from lightning_robust.callbacks import RobustEvaluation
from lightning_robust.defenses import Standard
from lightning_robust.threat import Threat

LIMIT = 1.1
"""How many times the bytes of further images the peak may grow by."""

KINDS: dict[str, dict[str, Any]] = {"8 bits": {}, "floats": {}, "floats, in a file": {"image_memory": 0.0}}
"""The settings of `RobustEvaluation` for each kind of images."""


class Made(Dataset[Any]):
    """Images that are made when they are asked for, of 8 bits or of any value."""

    def __init__(self, n: int, size: int, floats: bool) -> None:
        self.n, self.size, self.floats = n, size, floats

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        numbers, shape = torch.Generator().manual_seed(i), (3, self.size, self.size)
        if self.floats:
            return torch.rand(shape, generator=numbers), i % 2
        return torch.randint(0, 256, shape, generator=numbers, dtype=torch.uint8) / 255, i % 2


class Measured(NamedTuple):
    """MiB of main memory at the peak, and seconds of the CPU, of a whole process but for what it took to start."""

    mib: float
    seconds: float


def measure(kind: str, n: int, size: int) -> Measured:
    """Evaluate n images of size x size by APGD, 10 steps, on a net of three layers."""
    given: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * (size // 8) ** 2, 2))

    def run(count: int) -> None:
        attack = APGD(Threat(eps="1/255"), steps=10)
        evaluation = RobustEvaluation({"apgd": attack}, check_samples=0, figure_samples=0, verbose=False, **KINDS[kind])
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(accelerator="cpu", devices=1, default_root_dir=folder, callbacks=[evaluation], **given)
            trainer.test(Standard(net), DataLoader(Made(count, size, kind != "8 bits"), 50), verbose=False)

    run(100)  # what a process needs once
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    run(n)
    return Measured((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10, time.process_time() - began)


def main(n: int = 2000, size: int = 112) -> None:
    """Measure, print the table, and leave it in results/evaluation_memory.{csv,md}.

    Args:
        n: number of images; as many again are measured too.
        size: of an image, in pixels.
    """
    prepare()
    rows: list[Row] = []
    for kind in KINDS:
        found = []
        for count in (n, 2 * n):
            with tempfile.TemporaryDirectory() as folder, workers(1, folder) as pool:  # a process of its own
                found.append(pool.submit(measure, kind, count, size).result())
        mib = n * 3 * size**2 * (1 if kind == "8 bits" else 4) / 2**20
        growth = (found[1].mib - found[0].mib) / mib
        row: Row = {
            "images": kind,
            "MiB of as many images": round(mib, 1),
            f"peak MiB of {n}": round(found[0].mib, 1),
            f"of {2 * n}": round(found[1].mib, 1),
            "growth over the images' MiB": round(growth, 2),
            "CPU s a thousand images": round(1000 * (found[1].seconds - found[0].seconds) / n, 2),
        }
        rows.append(row)
    limits = {row["images"]: 0.1 if "file" in str(row["images"]) else LIMIT for row in rows}
    met = {row["images"]: float(row["growth over the images' MiB"]) <= limits[row["images"]] for row in rows}
    caption = required({f"growth at most {LIMIT}, in a file 0.1": met})
    print(write("evaluation_memory", f"Peak memory of an evaluation, images of {size} x {size}", rows, caption))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
