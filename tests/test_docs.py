"""What the documents say works: their Python runs, their commands parse, their links and names lead somewhere."""

import contextlib
import functools
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple

import lightning as L
import pytest
import torch
import yaml
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_robust.data
import lightning_robust.publish.evaluate  # with Lightning's Trainer, before a test replaces it
from lightning_robust.cli.main import main
from lightning_robust.data import Digits
from lightning_robust.models import SmallConvNet

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md"), *ROOT.glob(".github/*.md")]
)
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))
HOME = re.compile(
    r"https://(?:github\.com/lightning-robust/lightning_robust/(?:blob|tree)/main|"
    r"raw\.githubusercontent\.com/lightning-robust/lightning_robust/main)/"
)
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


class Block(NamedTuple):
    """A fenced block of code, and the line of the page on which it begins."""

    language: str
    code: str
    line: int


def blocks(text: str, language: str) -> list[Block]:
    """The blocks in a language, but for those marked `<!-- not run: reason -->` and those that are a file to write."""
    found = []
    for match in re.finditer(r"^(<!-- not run: .+ -->\n+)?```([^\n`]*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        is_file = re.match(r"# [\w/]+\.py\n", match[3])  # tests/test_contributing.py writes and runs these
        if match[2] == language and not match[1] and not is_file:
            found.append(Block(language, match[3], text.count("\n", 0, match.start(3))))
    return found


def pages_with(language: str, slow: str = "") -> Any:
    """Parametrize a test over the pages that have blocks in a language, one of which may be slow."""
    pages = {str(page.relative_to(ROOT)): page for page in PAGES if blocks(page.read_text(), language)}
    marks = {name: [pytest.mark.slow] if name == slow else [] for name in pages}
    return pytest.mark.parametrize("page", [pytest.param(pages[name], id=name, marks=marks[name]) for name in pages])


def stand_ins() -> dict[str, Any]:
    """What a reader has already: a net, images on which it errs, and loaders."""
    net = SmallConvNet(in_channels=3, num_classes=10, width=4)
    x = torch.rand(4, 3, 8, 8)
    y = net.eval()(x).argmin(1)
    loader = DataLoader(TensorDataset(x, y), batch_size=2)
    net.train()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    foreign = {"module": Foreign(), "images": (x - mean) / std}
    return {
        "net": net,
        "my_net": net,
        "surrogate": net,
        "x": x,
        "y": y,
        "train_loader": loader,
        "val_loader": loader,
        **foreign,
    }


class Foreign(nn.Module):
    """Takes normalised images, and gives its logits by a method of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = SmallConvNet(in_channels=3, num_classes=10, width=4)

    def classify(self, images: torch.Tensor) -> torch.Tensor:
        assert images.min() < 0
        return self.net(images)  # type: ignore[no-any-return]


def write_export(folder: Path, net: nn.Module) -> None:
    """A folder as `lightning-robust export` writes it."""
    save_file = resolve_name("safetensors.torch:save_file")
    folder.mkdir(parents=True)
    save_file(net.state_dict(), folder / "model.safetensors")
    settings = {"in_channels": 3, "num_classes": 10, "width": 4}
    (folder / "config.json").write_text(json.dumps({"net": {"class_path": "SmallConvNet", "init_args": settings}}))


@pages_with("python", slow="README.md")  # it runs AutoAttack
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = L.Trainer
    few = {"max_epochs": 1, **{f"limit_{part}_batches": 1 for part in ("train", "val", "test")}}

    @functools.wraps(trainer)
    def quick(**settings: Any) -> L.Trainer:
        return trainer(**settings | few, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)

    monkeypatch.setattr(L, "Trainer", quick)
    monkeypatch.setattr(lightning_robust.data, "Digits", functools.partial(Digits, batch_size=8))
    monkeypatch.chdir(tmp_path)
    names = stand_ins()
    write_export(tmp_path / "weights/digits-at", names["net"])
    for block in blocks(page.read_text(), "python"):
        # the line numbers of a traceback are those of the page
        exec(compile("\n" * block.line + block.code, str(page), "exec"), names)


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of every call of `lightning-robust` in the blocks of shell code."""
    for block in blocks(text, "sh"):
        for line in re.sub(r"\\\n\s*", "", block.code).splitlines():
            for command in line.split(" && "):
                words = shlex.split(command, comments=True)
                if "lightning-robust" in words and "pip" not in words:
                    end = words.index(">") if ">" in words else None  # what is printed goes to a file
                    yield words[words.index("lightning-robust") + 1 : end]


def inline_settings(text: str) -> list[str]:
    """Settings with values that stand in the text, such as `--trainer.precision bf16-mixed`."""
    sections = "trainer|model|data|evaluation|checkpoint"
    return re.findall(rf"`(--(?:{sections})\.[^`]+ [^`]+|--(?:{sections})[^`]*\+=[^`]+)`", text)


def all_commands() -> Iterator[Any]:
    """Each command once; those of the README in the fast suite. Settings in the text are parsed together, by page."""
    seen: set[str] = set()
    for page in PAGES:
        text, marks = page.read_text(), () if page.name == "README.md" else pytest.mark.slow
        settings = [word for setting in inline_settings(text) for word in shlex.split(setting)]
        for command in [*commands(text), *([["fit", "--config", "cifar10/at", *settings]] if settings else [])]:
            line = shlex.join(command)
            if line not in seen:
                yield pytest.param(command, id=f"{page.relative_to(ROOT)}: {line[:60]}", marks=marks)
            seen.add(line)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, and in it the files that the documents call the reader's own."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "config.yaml").write_text((ROOT / "configs/digits/at.yaml").read_text())
    for page in PAGES:
        for block in blocks(page.read_text(), "yaml"):
            if name := re.match(r"# (\w+\.yaml)\n", block.code):
                (folder / name[1]).write_text(block.code)
    return folder


@pytest.mark.parametrize("command", list(all_commands()))
def test_commands_parse(
    command: list[str], run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`recipes` and `--version` run, `report` and `compare` all but write; the others print the configuration."""
    monkeypatch.chdir(run)
    words = [re.sub(r"\S*<run>", str(run), word) for word in command]
    for name in ("write_report", "write_comparison"):  # there are no such runs
        monkeypatch.setattr(f"lightning_robust.cli.pages.{name}", lambda *_: "written")
    monkeypatch.setattr("lightning_robust.cli.pages.compare", lambda _: [])
    words += ["--out", "comparison.md"] if words[0] == "compare" else []  # of no runs, nothing else is printed
    quick = words[0] in ("recipes", "report", "compare", "completion", "--version")
    with contextlib.suppress(SystemExit):
        main(words if quick else [*words, "--print_config"])
    printed = capsys.readouterr()
    assert not printed.err
    assert printed.out if quick else yaml.safe_load(printed.out)


@pages_with("yaml")
def test_yaml_parses(page: Path) -> None:
    for block in blocks(page.read_text(), "yaml"):
        assert yaml.safe_load(block.code)


def targets(text: str) -> list[str]:
    """Where the links and images outside code lead."""
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`(?!\])", "", text, flags=re.DOTALL | re.MULTILINE)
    return [link or image for link, image in re.findall(r'\]\(([^)\s]+)\)|src="([^"]+)"', prose)]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in targets(page.read_text()):
        address, _, anchor = HOME.sub("", target).partition("#")
        if "://" in address:
            continue  # elsewhere
        place = (ROOT if HOME.match(target) else page.parent) / address if address else page
        assert place.exists(), target
        assert not anchor or anchor in anchors(place), target


def test_the_readme_works_on_the_package_index() -> None:
    """There, relative links and images lead nowhere."""
    found = targets((ROOT / "README.md").read_text())
    assert len(found) > 10
    assert all(target.startswith("https://") for target in found)


def test_the_readme_leads_to_every_page() -> None:
    linked = {HOME.sub("", target) for target in targets((ROOT / "README.md").read_text())}
    pages = {str(page.relative_to(ROOT)) for page in ROOT.glob("docs/*.md")}
    assert pages - {"docs/changelog.md"} <= linked  # which shows CHANGELOG.md on the site


@each_page
def test_names_of_the_package_exist(page: Path) -> None:
    text = page.read_text()
    if page.name == "CHANGELOG.md":  # the first column of its tables names what is gone
        text = re.sub(r"^\| .*? \|", "|", text, flags=re.MULTILINE)
    for name in sorted(set(re.findall(r"\blightning_robust(?:\.\w+)+", text))):
        if not name.endswith((".alp", ".py")):  # `alp` is what CONTRIBUTING.md tells its reader to write
            resolve_name(name)
    for module in re.findall(r"python -m (benchmarks\.[a-z]\w*)", text):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists(), module
    for path in re.findall(r"\b(?:benchmarks|tests|configs)/[\w/]+\.(?:py|yaml)\b", text):
        assert (ROOT / path).exists() or Path(path).stem == "alp", path


@pytest.mark.parametrize("path", sorted(ROOT.glob(".github/**/*.yml")), ids=lambda path: path.stem)
def test_github_files_parse(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text()), dict)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_are_sound(path: Path) -> None:
    text = path.read_text()
    flow = yaml.safe_load(text)
    assert set(flow) >= {"name", True, "permissions", "jobs"}  # YAML 1.1 reads the key `on` as True
    assert flow["permissions"] == {"contents": "read"}
    assert "secrets." not in text
    for job in flow["jobs"].values():
        assert job["runs-on"] == "ubuntu-latest"
        assert job["timeout-minutes"] > 0
        assert set(job.get("needs", "").split()) <= set(flow["jobs"])
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert re.fullmatch(r"[\w.-]+/[\w./-]+@[\w./-]+", step.get("uses", "a/b@c"))
        used = set(re.findall(r"matrix\.(\w+)", yaml.safe_dump(job)))
        assert used == set(job.get("strategy", {}).get("matrix", {}))


def test_ci_runs_what_is_run_here() -> None:
    steps = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["check"]["steps"]
    assert {"run": ".ci/run"} in steps
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_the_citation_is_that_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = dict(re.findall(r'^(\w+) = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    assert set(citation) >= {"cff-version", "message", "title", "authors"}  # what the schema requires
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])


def test_what_must_not_pass_does_not(tmp_path: Path) -> None:
    text = "```python\nx = 1\n```\n\n<!-- not run: no net -->\n```python\nnet\n```\n"
    assert [block.code for block in blocks(text, "python")] == ["x = 1\n"]
    assert list(commands("```sh\npip install a && lightning-robust fit --config b \\\n  --c d # e\n```\n")) == [
        ["fit", "--config", "b", "--c", "d"]
    ]
    page = tmp_path / "page.md"
    page.write_text('# A title\n\n[a](gone.md) `[code](x.md)` <img src="b.png">\n')
    assert targets(page.read_text()) == ["gone.md", "b.png"]
    assert anchors(page) == {"a-title"}
    with pytest.raises(AssertionError, match="gone"):
        test_links_lead_somewhere(page)
