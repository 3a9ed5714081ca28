"""The page about a run: what it says, what it never holds, and how a browser takes it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from lightning_robust.cli.main import main
from lightning_robust.publish.charts import Point, trade_off_chart
from lightning_robust.publish.confusion import confusion, under_attack
from lightning_robust.publish.evaluations import RecordedEvaluation
from lightning_robust.publish.run_files import Run
from lightning_robust.publish.run_report import report_page, write_report
from lightning_robust.publish.svg import themed_svg
from lightning_robust.utils.sha256 import file_sha256
from tests.helpers.run_folders import evaluation, training

Y = [0, 1, 2, 0]
CLEAN = [0, 1, 2, 2]
ATTACKED = {"pgd": [0, 2, 2, 2], "square": [1, 2, 2, 2]}
NAMES = ["Sandal", "Sneaker", "Ankle boot"]


class Text(HTMLParser):
    """Collects the text that a page shows."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.told: list[str] = []
        self._hidden = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._hidden += tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.told.append(data)

    def __str__(self) -> str:
        return " ".join(" ".join(self.told).split())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A training, and a test of its checkpoint in the folder that is returned."""
    metrics = "epoch,step,train/loss,val/worst_acc,train/gap\n0,1,2.5,0.25,\n1,2,1.25,0.5,0.75\n"
    checkpoint = training(tmp_path / "fit-1", metrics=metrics, attack={"init_args": {"threat": {"eps": 0.1}}})
    about = {"checkpoint": {"path": str(checkpoint), "sha256": file_sha256(checkpoint)}}
    checks = [
        {"name": "gradients", "status": "pass", "sentence": "Gradients are there."},
        {"name": "strength", "status": "warn", "sentence": "APGD-T broke 1 of 4 samples."},
    ]
    evaluation(tmp_path / "test-1", Y, CLEAN, ATTACKED, checks=checks, classes=NAMES, seed=7, **about)
    return tmp_path / "test-1"


def test_says_what_was_found(run: Path) -> None:
    text = str(Text(report_page(Run.read(run))))
    assert "AT on Digits" in text
    assert "Clean accuracy 75.00 %" in text
    assert "Robust accuracy, linf 0.1 25.00 %" in text  # of 4 images, the third alone is never broken
    assert "pgd linf 0.1 50.00 %" in text
    assert "1 of 2 passed" in text
    assert text.index("APGD-T broke 1") < text.index("Gradients are there")
    assert "Sneaker" in text
    assert "seed 7" in text
    assert f"lightning-robust fit --config {run.parent / 'fit-1' / 'config.yaml'}" in text


def test_training_curves_are_drawn(run: Path) -> None:
    assert Run.read(run).curves == {
        "train/loss": {0: 2.5, 1: 1.25},
        "val/worst_acc": {0: 0.25, 1: 0.5},
        "train/gap": {1: 0.75},
    }
    text = str(Text(report_page(Run.read(run))))
    assert "Loss by epoch" in text
    assert "train/gap by epoch" in text


def test_the_worst_case_prediction_is_the_first_attacks_that_broke_the_sample(run: Path) -> None:
    samples = RecordedEvaluation.read(run / "robustness.json").samples
    assert samples is not None
    assert under_attack(samples, ["pgd", "square"]).tolist() == [1, 2, 2, 2]
    assert under_attack(samples, ["pgd"]).tolist() == [0, 2, 2, 2]


def test_confusion_of_many_classes_lists_the_most_frequent_mistakes() -> None:
    y = torch.tensor([0, 0, 0, 1, 1])
    told = confusion(y, torch.tensor([3, 3, 0, 2, 1]), [str(k) for k in range(30)])
    assert told["rows"] is None
    assert [(pair["label"], pair["taken"], pair["count"]) for pair in told["pairs"]] == [("0", "3", 2), ("1", "2", 1)]
    assert told["pairs"][0]["share"] == pytest.approx(2 / 3)


def test_a_folder_of_fit_shows_the_test_of_its_checkpoint(run: Path) -> None:
    shown = Run.read(run.parent / "fit-1").evaluation
    assert shown is not None
    assert shown.path == run / "robustness.json"


def test_radii_are_those_of_the_checkpoint(run: Path) -> None:
    values = torch.tensor([0.1, 0.2, 0.2])
    path = run.parent / "fit-1" / "checkpoints" / "best.ckpt"
    torch.save({"radii": {"values": values}}, path)
    assert torch.equal(Run.read(run).radii, values)  # type: ignore[arg-type]
    assert "Radii of 3 training samples" in report_page(Run.read(run))


def test_nothing_in_a_run_can_run_in_the_browser(run: Path) -> None:
    report = json.loads((run / "robustness.json").read_text())
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    report["classes"] = [evil, "a$b$", "c"]
    report["weights"] = report["checks"][0]["sentence"] = report["versions"]["python"] = evil
    (run / "robustness.json").write_text(json.dumps(report))
    (run.parent / "fit-1" / "config.yaml").write_text(
        f"model: {{class_path: '{evil}'}}\ndata: {{class_path: '{evil}'}}"
    )
    (run.parent / "fit-1" / "metrics.csv").write_text(f'epoch,step,"{evil}"\n0,1,2\n')
    page = report_page(Run.read(run))
    assert "<script" not in page
    assert "<img" not in page
    assert "alert(1)" in page


def test_needs_no_network(run: Path) -> None:
    page = report_page(Run.read(run))
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!#|data:)[^\s"')>]+""", page)
    assert "@import" not in page


@pytest.mark.parametrize("name", ["DejaVu Sans run", r"a$\\foo$b", "_hidden"])
def test_odd_names_are_drawn_as_they_are(name: str) -> None:
    drawn = themed_svg(trade_off_chart([Point(name, (0.5, 0.4, 0.6), (0.3, 0.2, 0.4))]), "odd")
    ElementTree.fromstring(drawn)
    assert name.removeprefix("_") in "".join(re.findall(r">([^<]*)</text>", drawn))


def test_the_same_run_gives_the_same_bytes(run: Path) -> None:
    assert report_page(Run.read(run)) == report_page(Run.read(run))


def test_examples_are_shown_with_classes_and_distances(run: Path) -> None:
    pixels = np.zeros((3, 8, 8, 1), np.uint8)
    np.savez(
        run / "examples.npz",
        **{
            "index": [1, 2, 3],
            "label": [1, 2, 0],
            "clean": [1, 2, 1],
            "predicted": [2, 2, 1],
            "broken": [True, False, False],
        },
        **{"attack": ["pgd", "square", "square"], "size": [0.0625, 0.1, 0.0], "times": [5.0, 5.0, 0.0]},
        **{"x": pixels, "x_adv": pixels, "perturbation": pixels},
    )
    page = report_page(Run.read(run))
    text = str(Text(page))
    assert page.count("data:image/png;base64,") == 9
    assert "Sneaker; image 1; broken by pgd, linf distance 0.0625" in text
    assert "Ankle boot; image 2; withstands square" in text
    assert "Sandal; image 3; misclassified without an attack" in text


def test_files_that_do_not_belong_together_are_refused(run: Path) -> None:
    report = json.loads((run / "robustness.json").read_text())
    (run / "robustness.json").write_text(json.dumps({**report, "n": 5}))
    with pytest.raises(ValueError, match=r"samples\.csv does not belong to robustness\.json"):
        report_page(Run.read(run))


def test_a_users_file_is_kept_and_an_earlier_page_replaced(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["report", str(run)])
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    write_report(str(run))
    mine = run / "mine.html"
    mine.write_text("<html>mine</html>")
    with pytest.raises(FileExistsError, match="left as it is"):
        write_report(str(run), str(mine))
    assert mine.read_text() == "<html>mine</html>"


def test_charts_as_files_for_a_paper(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["report", str(run), "--figures", str(run / "paper")])
    kinds = {".pdf": b"%PDF", ".svg": b"<?xm"}
    paths = sorted((run / "paper").iterdir())
    assert {path.stem for path in paths} == {"loss", "accuracy", "train-gap", "classes"}
    assert all(path.read_bytes()[:4] == kinds[path.suffix] for path in paths)
    assert set(capsys.readouterr().out.split()) == {str(run / "report.html"), *map(str, paths)}


def test_a_run_without_an_evaluation_says_how_to_get_one(tmp_path: Path) -> None:
    training(tmp_path / "fit-1")
    assert "lightning-robust test" in str(Text(report_page(Run.read(tmp_path / "fit-1"))))


def test_ten_thousand_samples_stay_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y, clean, attacked = (rng.integers(0, 100, 10_000).tolist() for _ in range(3))
    evaluation(tmp_path / "test", y, clean, {"pgd": attacked})
    assert len(report_page(Run.read(tmp_path / "test"))) < 5e6


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
@pytest.mark.parametrize("kind", ["report", "compare"])
def test_a_browser_takes_it_without_a_word(run: Path, kind: str) -> None:
    page, shot = run / "page.html", run / "page.png"
    main(["report", str(run), "--out", str(page)] if kind == "report" else ["compare", str(run), "--out", str(page)])
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--window-size=400,900"]
    command = ["chromium", *flags, f"--screenshot={shot}", f"file://{page}"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stderr
    assert "CONSOLE" not in told  # where the page's policy stops a request or a script, too, a line would stand here
    assert shot.stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_a_browser_tells_of_a_request(run: Path) -> None:
    page = run / "page.html"
    main(["report", str(run), "--out", str(page)])
    page.write_text(page.read_text().replace("<main>", '<main><img src="https://example.org/a.png">'))
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command = ["chromium", *flags, f"--screenshot={run / 'page.png'}", f"file://{page}"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stderr
    assert "CONSOLE" in told
