"""Runs side by side: what may be compared, and paired tests by hand."""

import csv
import io
import math
from pathlib import Path

import pytest

from lightning_robust.cli.main import main
from lightning_robust.publish.comparison import compare, short_names
from lightning_robust.publish.comparison_formats import as_csv, as_html, as_latex, as_markdown, write_comparison
from lightning_robust.publish.evaluations import evaluations_in
from lightning_robust.publish.paired_test import mcnemar
from lightning_robust.publish.run_files import Run
from tests.helpers.command_line import refusal
from tests.helpers.run_folders import THREAT, evaluation, training

Y = [0, 1, 2, 0, 1, 2, 0, 1]


def two_runs(place: Path) -> list[str]:
    """Two runs on the same images: A alone is robust on images 0, 1 and 2, B alone on image 7."""
    evaluation(place / "a", Y, Y, {"pgd": [0, 1, 2, 9, 9, 9, 9, 9]})
    evaluation(place / "b", Y, [0, 1, 2, 0, 1, 2, 0, 9], {"pgd": [9, 9, 9, 9, 9, 9, 9, 1]})
    evaluation(place / "b", Y, Y, {"pgd": [9, 9, 9, 9, 9, 9, 9, 1]})
    return [str(place / "a"), str(place / "b")]


@pytest.mark.parametrize(("b", "c"), [(0, 0), (3, 1), (1, 3), (10, 2), (7, 7), (40, 25)])
def test_mcnemar_is_the_two_sided_binomial_test(b: int, c: int) -> None:
    n = b + c
    tail = sum(math.comb(n, k) for k in range(max(b, c), n + 1)) / 2**n
    assert mcnemar(b, c) == pytest.approx(min(1.0, 2 * tail), rel=1e-12)


def test_counts_of_the_paired_tests(tmp_path: Path) -> None:
    (group,) = compare(two_runs(tmp_path))
    clean, robust = group.paired()
    assert (clean.only_first, clean.only_second) == (0, 0)
    assert (robust.only_first, robust.only_second) == (3, 1)
    assert robust.p == pytest.approx(2 * (4 + 1) / 16)


def test_order_of_the_samples_does_not_matter(tmp_path: Path) -> None:
    runs = two_runs(tmp_path)
    path = tmp_path / "b" / "samples.csv"
    head, *lines = path.read_text().splitlines()
    path.write_text("\n".join([head, *reversed(lines)]) + "\n")
    robust = compare(runs)[0].paired()[1]
    assert (robust.only_first, robust.only_second) == (3, 1)


@pytest.mark.parametrize(
    "other",
    [
        {"threat": {**THREAT, "eps": 0.2}},
        {"threat": {**THREAT, "norm": "l2"}},
        {"threat": {**THREAT, "lower": -1.0}},
        {"stage": "validate"},
    ],
)
def test_other_threats_and_sets_are_never_in_one_table(tmp_path: Path, other: dict[str, object]) -> None:
    evaluation(tmp_path / "a", Y, Y, {"pgd": Y})
    evaluation(tmp_path / "b", Y, Y, {"pgd": Y}, **other)  # type: ignore[arg-type]
    groups = compare([str(tmp_path / "a"), str(tmp_path / "b")])
    assert [[entry.name for entry in group.entries] for group in groups] == [["a"], ["b"]]


def test_another_number_of_images_is_another_table(tmp_path: Path) -> None:
    evaluation(tmp_path / "a", Y, Y, {"pgd": Y})
    evaluation(tmp_path / "b", Y[:4], Y[:4], {"pgd": Y[:4]})
    assert len(compare([str(tmp_path / "a"), str(tmp_path / "b")])) == 2


@pytest.mark.parametrize("case", ["labels", "digest", "no samples"])
def test_other_images_are_not_tested_in_pairs(tmp_path: Path, case: str) -> None:
    evaluation(tmp_path / "a", Y, Y, {"pgd": Y}, images_sha256="1")
    others = [1 - min(label, 1) for label in Y] if case == "labels" else Y
    digest = "2" if case == "digest" else None
    evaluation(tmp_path / "b", others, others, {"pgd": others}, samples=case != "no samples", images_sha256=digest)
    (group,) = compare([str(tmp_path / "a"), str(tmp_path / "b")])
    assert not group.paired()
    assert any("images differ" in doubt for doubt in group.doubts)


def test_other_attacks_are_said_and_not_tested(tmp_path: Path) -> None:
    evaluation(tmp_path / "a", Y, Y, {"pgd": Y}, steps=10)
    evaluation(tmp_path / "b", Y, Y, {"pgd": Y}, steps=50)
    (group,) = compare([str(tmp_path / "a"), str(tmp_path / "b")])
    assert [test.measure for test in group.paired()] == ["clean"]
    assert any("upper bound" in doubt for doubt in group.doubts)


def test_checks_that_did_not_pass_are_said(tmp_path: Path) -> None:
    check = {"name": "gradients", "status": "fail", "sentence": "No gradient."}
    evaluation(tmp_path / "a", Y, Y, {"pgd": Y}, checks=[check])
    (group,) = compare([str(tmp_path / "a")])
    assert group.doubts == ["Checks of a did not pass (gradients)."]


def test_a_training_is_told_by_its_strongest_test(tmp_path: Path) -> None:
    from lightning_robust.utils.sha256 import file_sha256

    checkpoint = training(tmp_path / "fit-1")
    about = {"checkpoint": {"path": str(checkpoint), "sha256": file_sha256(checkpoint)}}
    evaluation(tmp_path / "fit-1", Y[:2], Y[:2], {"pgd": [9, 9]}, **{**about, "stage": "fit"})
    evaluation(tmp_path / "test-1", Y, Y, {"pgd": [9, 9, *Y[2:]]}, **about)
    evaluation(tmp_path / "test-2", Y, Y, {"pgd": Y}, **about)
    evaluation(tmp_path / "test-3", Y, Y, {"pgd": [9] * 8}, checkpoint={"path": "x", "sha256": "of other weights"})
    (group,) = compare([str(tmp_path / "fit-1")])
    assert (group.n, group.stage, group.entries[0].evaluation.report["worst"]["correct"]) == (8, "test", 6)


def test_of_a_training_it_is_the_best_checkpoint_at_the_threat_of_the_training(tmp_path: Path) -> None:
    """The last checkpoint, and a larger radius, have lower accuracies: they are no stronger evaluations of it."""
    from lightning_robust.utils.sha256 import file_sha256

    best = training(tmp_path / "fit-1", attack={"init_args": {"threat": {"norm": "linf", "eps": 0.1}}})
    last = best.with_name("last.ckpt")
    last.write_bytes(best.read_bytes() + b"other")
    about = {path: {"checkpoint": {"path": str(path), "sha256": file_sha256(path)}} for path in (best, last)}
    evaluation(tmp_path / "test-1", Y, Y, {"pgd": [9, 9, *Y[2:]]}, **about[best])
    evaluation(tmp_path / "test-2", Y, Y, {"pgd": [9] * 8}, **about[last])
    evaluation(tmp_path / "test-3", Y, Y, {"pgd": [9] * 8}, threat={**THREAT, "eps": 0.2}, **about[best])
    shown = Run.read(tmp_path / "fit-1").evaluation
    assert shown is not None
    assert shown.path.parent.name == "test-1"
    groups = {
        group.threats: group.entries[0].evaluation.path.parent.name for group in compare([str(tmp_path / "fit-1")])
    }
    assert groups == {"linf 0.1": "test-1", "linf 0.2": "test-3"}


def test_another_precision_is_another_attack(tmp_path: Path) -> None:
    for name, precision in (("a", "fp32"), ("b", "bf16")):
        evaluation(tmp_path / name, Y, Y, {"pgd": Y}, precision=precision)
    (group,) = compare([str(tmp_path / "a"), str(tmp_path / "b")])
    assert not group.same_attacks


def test_an_evaluation_may_be_named_after_its_files(tmp_path: Path) -> None:
    evaluation(tmp_path / "a", Y, Y, {"pgd": Y}, name="robustness-l2-")
    (recorded,) = evaluations_in(tmp_path / "a")
    assert recorded.samples is not None


def test_settings_that_differ(tmp_path: Path) -> None:
    for name, beta in (("a", 1.0), ("b", 6.0)):
        training(tmp_path / name, "TRADES", beta=beta)
        evaluation(tmp_path / name, Y, Y, {"pgd": Y})
    (group,) = compare([str(tmp_path / "a"), str(tmp_path / "b")])
    assert group.differences() == {"model.beta": ["1.0", "6.0"]}


def test_formats_hold_the_numbers(tmp_path: Path) -> None:
    groups = compare(two_runs(tmp_path))
    (a, b) = csv.DictReader(io.StringIO(as_csv(groups)))
    assert (a["run"], a["threat"], a["clean_correct"], a["robust_correct"], b["robust_correct"]) == (
        *("a", "linf 0.1", "8"),
        *("3", "1"),
    )
    for text in (as_markdown(groups), as_latex(groups).replace("\\%", "%"), as_html(groups)):
        assert "37.50%" in text
        assert "linf 0.1, 8 test images" in text
        assert "0.62" in text or "tabular" in text  # the p-value, which LaTeX tables leave out


def test_special_characters(tmp_path: Path) -> None:
    evaluation(tmp_path / "a_b&<i>|", Y, Y, {"pgd": Y})
    groups = compare([str(tmp_path / "a_b&<i>|")])
    assert r"a\_b\&<i>|" in as_latex(groups)
    assert "a_b&amp;&lt;i&gt;|" in as_html(groups)
    assert r"a_b&<i>\|" in as_markdown(groups)


def test_a_users_file_is_kept(tmp_path: Path) -> None:
    runs = two_runs(tmp_path)
    for ending in ("html", "md", "tex", "csv"):
        mine = tmp_path / f"mine.{ending}"
        mine.write_text("mine")
        with pytest.raises(FileExistsError, match="left as it is"):
            write_comparison(compare(runs), str(mine))
        assert mine.read_text() == "mine"
    for _ in range(2):  # an earlier page of ours is replaced
        write_comparison(compare(runs), str(tmp_path / "ours.html"))


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = two_runs(tmp_path)
    main(["compare", *runs, "--out", str(tmp_path / "c.md"), "--out", str(tmp_path / "c.csv")])
    told = capsys.readouterr().out
    assert "37.50%" in told
    assert "3 images are right in a alone" in " ".join(told.split())
    assert (tmp_path / "c.md").is_file()
    assert (tmp_path / "c.csv").is_file()


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["compare", "nowhere"], "'nowhere' is no run"),
        (["compare", "{a}", "--out", "c.pdf"], "no known ending"),
        (["report", "nowhere"], "'nowhere' is no run"),
    ],
)
def test_mistakes_are_one_sentence(
    tmp_path: Path, args: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation(tmp_path / "a", Y, Y, {"pgd": Y})
    assert told in refusal(capsys, *(word.format(a=tmp_path / "a") for word in args))


def test_names_tell_runs_apart() -> None:
    assert short_names(["x/a/1", "x/b/1", "x/b/1/"]) == ["a/1", "b/1", "b/1 (2)"]
