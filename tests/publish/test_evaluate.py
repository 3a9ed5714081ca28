"""`evaluate`: the counts are those of plain loops, and reports hold together."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_robust as lr
from lightning_robust.data import Digits
from lightning_robust.publish.evaluations import evaluations_in
from lightning_robust.runtime.rng import SampleRNG

X = torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(0))
NET = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
with torch.no_grad():
    NET[1].weight.copy_(torch.randn(3, 16, generator=torch.Generator().manual_seed(1)))
    NET[1].bias.copy_(torch.tensor([0.3, -0.2, 0.1]))
Y = NET(X).argmax(1)
Y[::5] = (Y[::5] + 1) % 3  # some are wrong without an attack
QUICK: Any = {"check_samples": 0, "accelerator": "cpu"}


def distances(norm: str) -> Tensor:
    """The distance of each sample [30] to the nearest other class of the linear net, without a box; 0 if wrong."""
    weight, logits = NET[1].weight.detach(), NET(X).detach()
    dual = {"linf": 1, "l2": 2}[norm]
    gap = logits.gather(1, Y[:, None]) - logits
    size = (weight[Y][:, None] - weight).norm(p=dual, dim=2)
    return torch.where(gap > 0, gap / size, torch.inf).amin(1) * (logits.argmax(1) == Y)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_counts_are_those_of_the_closed_form(norm: str) -> None:
    """The box hardly matters to images in its middle, and the attacks find what a linear net allows."""
    x, radii = 0.4 + 0.2 * X, [0.01, 0.03, 0.05] if norm == "linf" else [0.02, 0.06, 0.15]
    scaled = nn.Sequential(Middle(), *NET)
    report = lr.evaluate(scaled, (x, Y), [f"{norm} {eps}" for eps in radii], ["pgd50", "apgd-t"], **QUICK)
    away = 0.2 * distances(norm)
    assert report.accuracy() == pytest.approx(float((away > 0).double().mean()))
    for eps in radii:
        assert report.accuracy(f"{norm} {eps}") == pytest.approx(float((away > eps).double().mean()))
    assert len({report.accuracy(f"{norm} {eps}") for eps in radii}) == 3


class Middle(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.4) / 0.2


def test_it_is_the_attack_called_by_hand() -> None:
    report = lr.evaluate(NET, (X, Y), "linf 0.1", {"mine": lr.PGD(steps=7)}, seed=3, **QUICK)
    from lightning_robust.evaluation.checksums import checksums

    rng = SampleRNG(3, checksums(X, Y))
    x_adv = lr.PGD(lr.Threat("linf", 0.1), steps=7)(NET, X, Y, rng=rng)
    right = (NET(X).argmax(1) == Y) & (NET(x_adv).argmax(1) == Y)
    assert torch.equal(report.robust("linf 0.1"), right)


def forms(x: Tensor, y: Tensor) -> dict[str, Any]:
    return {
        "tensors": (x, y),
        "dataset": TensorDataset(x, y),
        "loader": DataLoader(TensorDataset(x, y), batch_size=7),
    }


@pytest.mark.parametrize("form", ["tensors", "dataset", "loader"])
@pytest.mark.parametrize("samples", [None, 11])
def test_every_form_of_data_gives_the_same_verdicts(form: str, samples: int | None) -> None:
    n = samples or 30
    wanted = lr.evaluate(NET, (X[:n], Y[:n]), "linf 0.1", "pgd10", **QUICK).robust("linf 0.1")
    got = lr.evaluate(NET, forms(X, Y)[form], "linf 0.1", "pgd10", samples=samples, **QUICK).robust("linf 0.1")
    assert torch.equal(got, wanted)


def test_a_data_module_gives_its_test_data() -> None:
    net, data = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), Digits()
    data.setup("test")
    x, y = next(iter(DataLoader(data.test_set, batch_size=450)))[:2]
    report = lr.evaluate(net, Digits(), "linf 0.1", "pgd10", **QUICK)
    assert report.accuracy() == pytest.approx(float((net(x).argmax(1) == y).double().mean()))
    assert len(report.robust("linf 0.1")) == 450


def test_the_accuracy_never_rises_with_the_radius_and_the_union_is_the_least() -> None:
    class Once(lr.PGD):
        """Breaks even samples at 0.1, odd ones at 0.2, and so is not monotone by itself."""

        def __call__(self, net: Any, x: Tensor, y: Any, *args: Any, rng: Any = None, **kwargs: Any) -> Tensor:
            found = super().__call__(net, x, y, *args, rng=rng, **kwargs)
            keep = (rng.index if hasattr(rng, "index") else torch.arange(len(x))) % 2 == (self.threat.eps < 0.15)
            return torch.where(keep.view(-1, 1, 1, 1), found, x)

    threats = ["linf 0.2", "linf 0.1", "l2 0.3"]
    report = lr.evaluate(NET, (X, Y), threats, {"once": Once(steps=10)}, **QUICK)
    assert report.accuracy("linf 0.2") <= report.accuracy("linf 0.1") <= report.accuracy()
    all_ = torch.stack([report.robust(threat) for threat in threats]).all(0)
    assert report.union == pytest.approx(float(all_.double().mean()))
    assert report.summary["union"]["correct"] == int(all_.sum())
    assert not (report.robust("linf 0.2") & ~report.robust("linf 0.1")).any()


@pytest.mark.slow
def test_files_are_those_that_report_and_compare_read(tmp_path: Path) -> None:
    report = lr.evaluate(NET, (X, Y), ["linf 0.1", "l2 0.5"], ["pgd10", "fab"], out=tmp_path, **QUICK)
    kept = {evaluation.path.name: evaluation for evaluation in evaluations_in(tmp_path)}
    assert set(kept) == {"linf-0.1-robustness.json", "l2-0.5-robustness.json"}
    assert kept["l2-0.5-robustness.json"].report["worst"]["accuracy"] == report.accuracy("l2 0.5")
    told = json.loads(report.to_json(tmp_path / "all.json"))
    assert told == json.loads((tmp_path / "all.json").read_text())
    assert told["threats"]["l2 0.5"]["attacks"]["fab"]["accuracy"] >= report.accuracy("l2 0.5")


@pytest.mark.slow
def test_the_table_and_the_figures(tmp_path: Path) -> None:
    report = lr.evaluate(NET, (X, Y), ["linf 0.05", "linf 0.1"], ["pgd10", "fab"], **QUICK)
    text = str(report)
    for accuracy in (report.accuracy(), report.accuracy("linf 0.05"), report.union):
        assert f"{accuracy:.2%}" in text
    assert "all of them" in text
    assert max(map(len, text.splitlines())) <= 80
    assert set(report.figures()) == {
        "linf-radii",
        *(f"linf-{eps}-{kind}" for eps in ("0.05", "0.1") for kind in ("radius", "classes")),
    }
    paths = report.save_figures(tmp_path, ("pdf", "svg"))
    assert {path.read_bytes()[:4] for path in paths} == {b"%PDF", b"<?xm"}


def test_its_text_is_text_in_a_notebook_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """There, Rich shows what is printed to any of its consoles, writes nothing, and is asked for colours."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    text = str(lr.evaluate(NET, (X, Y), "linf 0.05", "pgd5", **QUICK))
    assert "worst case" in text
    assert "\x1b" not in text


def test_the_net_is_left_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 3)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    lr.evaluate(net, (X, Y), "linf 0.1", "pgd10", **QUICK)
    assert net.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert capsys.readouterr().out == ""


def test_the_first_samples_are_those_of_the_loaders_order() -> None:
    backwards = DataLoader(TensorDataset(X, Y), batch_size=4, sampler=range(29, -1, -1))
    report = lr.evaluate(NET, backwards, "linf 0.1", "pgd10", samples=6, **QUICK)
    last = torch.arange(29, 23, -1)
    assert report.accuracy() == pytest.approx(float((NET(X[last]).argmax(1) == Y[last]).double().mean()))


def test_what_a_data_module_does_to_a_batch_is_done_to_the_first_samples_too() -> None:
    class Inverted(LightningDataModule):
        def test_dataloader(self) -> Any:
            return DataLoader(TensorDataset(1 - X, Y), batch_size=7)

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return [1 - batch[0], batch[1]]

    wanted = lr.evaluate(NET, (X[:11], Y[:11]), "linf 0.1", "pgd10", **QUICK).accuracy()
    assert lr.evaluate(NET, Inverted(), "linf 0.1", "pgd10", samples=11, **QUICK).accuracy() == wanted


def test_a_random_nets_accuracy_is_the_reports() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return NET(x) + 2 * torch.randn(len(x), 3)

    torch.manual_seed(0)
    report = lr.evaluate(Noisy(), (X, Y), ["linf 0.01", "linf 0.02"], "pgd3", **QUICK)
    assert report.random
    for threat, evaluation in report.evaluations.items():
        assert report.accuracy(threat) == evaluation.report["worst"]["accuracy"]
        assert report.summary["threats"][threat]["accuracy"] == report.accuracy(threat)
    assert "union" not in report.summary


@pytest.mark.parametrize("name", ["robustness.json", "mine-samples.csv", "config.yaml", "summary.json"])
def test_files_that_lie_there_are_kept(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match="left as it is"):
        lr.evaluate(NET, (X, Y), "linf 0.1", "pgd3", out=tmp_path, **QUICK)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Lightning tells of the interrupt
def test_an_evaluation_that_was_killed_goes_on(tmp_path: Path) -> None:
    class Cut(lr.PGD):
        calls = 0

        def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
            Cut.calls += 1
            if Cut.calls == 3:
                raise KeyboardInterrupt
            return super().__call__(*args, **kwargs)

    given: Any = {"data": (X, Y), "threat": "linf 0.1", "attacks": {"pgd": Cut(steps=5)}, "batch_size": 10, **QUICK}
    with pytest.raises(SystemExit):
        lr.evaluate(NET, **given, out=tmp_path)
    report = lr.evaluate(NET, **given, out=tmp_path)
    assert Cut.calls < 6  # two of the three batches were not attacked again
    assert torch.equal(report.robust("linf 0.1"), lr.evaluate(NET, **given).robust("linf 0.1"))


def test_doubts_are_told() -> None:
    report = lr.evaluate(lambda_net(), (X, Y), "linf 0.1", "pgd10", check_samples=16, accelerator="cpu")
    assert not report.sound
    assert "gradient" in " ".join(report.doubts())
    assert report.doubts()[0][:40] in " ".join(str(report).split())


def lambda_net() -> nn.Module:
    class Rounded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return NET((x * 8).round() / 8)  # no gradient

    return Rounded()


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ({"threat": "linf"}, "such as 'linf 8/255'"),
        ({"threat": "l3 0.5"}, "Unknown norm 'l3'"),
        ({"threat": []}, "no threat"),
        ({"threat": ["linf 8/255", lr.Threat("linf", 8 / 255)]}, "Two of the threats are the same"),
        ({"attacks": "autoatack"}, "did you mean 'autoattack'"),
        ({"data": 3}, "Cannot read data of type int"),
        ({"attacks": []}, "There is no attack"),
        ({"attacks": {}}, "There is no attack"),
    ],
)
def test_mistakes_are_one_sentence(call: dict[str, Any], told: str) -> None:
    arguments = {"data": (X, Y), "threat": "linf 0.1", "attacks": "pgd10", **call}
    with pytest.raises((TypeError, ValueError), match=told):
        lr.evaluate(NET, **arguments, **QUICK)
