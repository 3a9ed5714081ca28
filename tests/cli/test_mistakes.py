"""Plausible mistakes on the command line: each is one right sentence with status 2, and leaves nothing."""

import re
from pathlib import Path

import pytest

from lightning_robust.cli.main import main
from tests.cli.test_cli import folder  # noqa: F401
from tests.helpers.command_line import refusal

pytestmark = pytest.mark.slow  # each starts the command line, which takes a third of a second and more

FIT = ["fit", "--config=digits/at", "--trainer.accelerator=cpu"]
NETS = "IAATWideResNet, Normalize, PreActResNet, Pretrained, RobustBenchModel, SmallConvNet, TimmModel, Torchvision"
OPTIONS = "there are checkpoint, ckpt_path, config, data, evaluation, model"
Refused = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        # names of classes: the candidates are those that the setting's type allows
        (["--model.net=SmallConvNt"], "model.net: there is no class 'SmallConvNt'; did you mean 'SmallConvNet'?"),
        (["--model.net=Vgg"], f"model.net: there is no class 'Vgg'; there are {NETS}"),
        (["--model.net=PGD"], f"model.net: 'PGD' cannot stand here; there are {NETS}"),
        (["--model.net=lightning_robust.PGD"], f"model.net: 'PGD' cannot stand here; there are {NETS}"),
        (["--model.net=nope.Net"], "model.net: there is no class 'nope.Net' (No module named 'nope'); there are IAAT"),
        (["--model.net=mine.yaml"], "model.net: there is no file 'mine.yaml'."),
        (["--model.attack=PDG"], "model.attack: there is no class 'PDG'; did you mean 'PGD'?"),
        (["--model.attack=AT"], "model.attack: 'AT' cannot stand here; there are APGD, Collaborative, PGD, Square"),
        (["--evaluation.attacks.x=AutoAtack"], "there is no class 'AutoAtack'; did you mean 'AutoAttack'?"),
        (["--evaluation.fit_attacks.x=SmallConvNet"], "'SmallConvNet' cannot stand here; there are APGD, AutoAttack,"),
        (["--model.regularizers+=Foo"], "there is no class 'Foo'; there are EffectiveWeightNorm, InputGradient."),
        (["--model.optimizer=SGDD"], "model.optimizer: there is no class 'SGDD'; did you mean 'SGD'?"),
        (["--trainer.callbacks+=RadiusHistogramm"], "did you mean 'RadiusHistogram'?"),
        (["--trainer.callbacks+=AveragedWeights", "--trainer.callbacks.decay=1.5"], "decay must be in [0, 1], or none"),
        (
            ["--trainer.callbacks+=AveragedWeights", "--trainer.callbacks.decay=high"],
            "trainer.callbacks.decay: expected a number or null, got 'high'.",
        ),
        (["--trainer.logger=CSVLog"], "trainer.logger: there is no class 'CSVLog'; did you mean 'CSVLogger'?"),
        (["--data=CIFAR"], "data: there is no class 'CIFAR'; did you mean 'CIFAR10'?"),
        # values: all that can stand there
        (["--model.attack.steps=ten"], "model.attack.steps: expected an integer, got 'ten'."),
        (["--model.attack_bn=evil"], "model.attack_bn: expected eval, batch or train, got 'evil'."),
        (["--trainer.max_epochs=ten"], "trainer.max_epochs: expected an integer or null, got 'ten'."),
        (["--trainer.precision=fp16"], "trainer.precision: expected 64, 32, 16, transformer-engine, "),
        (["--trainer.precision=fp16"], "32-true, 64-true, bf16 or null, got 'fp16'."),
        (["--evaluation=3"], "evaluation: expected settings, or a YAML file of them, got '3'."),
        (["--evaluation=mine.yaml"], "evaluation: there is no file 'mine.yaml'."),
        (["--evaluation.attacks=3"], "evaluation.attacks: expected a mapping of names to values, got '3'."),
        (["--trainer.devices=all"], "`devices` selected with `CPUAccelerator` should be an int > 0."),
        # names of settings
        (["--model.attack.eps=8/255"], "model.attack: PGD has no setting 'eps'; did you mean 'threat.eps'?"),
        (["--model.eps=8/255"], "model: AT has no setting 'eps'; did you mean 'attack.threat.eps'?"),
        (["--trainer.maxepochs=3"], "trainer has no setting 'maxepochs'; did you mean 'max_epochs'?"),
        (["--epcohs=3"], f"there is no option 'epcohs'; {OPTIONS}"),
        # options of `evaluate`, and short names
        (["--epochs=3"], "there is no option 'epochs'; did you mean '--trainer.max_epochs'?"),
        (["--strict=true"], "there is no option 'strict'; did you mean '--evaluation.strict'?"),
        (["--attacks=pgd50"], "there is no option 'attacks'; did you mean '--evaluation.attacks'?"),
        (["--lr=0.1"], "there is no option 'lr'; did you mean '--model.optimizer.lr'?"),
        (["--seed_everthing=3"], "there is no option 'seed_everthing'; did you mean 'seed_everything'?"),
        (["--modle.attack.steps=3"], "there is no section 'modle'; did you mean 'model'?"),
        # abbreviations
        (["--trainer.max_ep=3"], "trainer has no setting 'max_ep'; did you mean 'max_epochs'?"),
        (["--seed=3"], "there is no option 'seed'; did you mean '--seed_everything'?"),
        (["--ckpt=a"], "there is no option 'ckpt'; did you mean 'ckpt_path'?"),
        # radii in levels of 255
        (
            ["--model.attack.threat.eps=8"],
            "An eps of 8 in linf is larger than the box [0, 1]: write '8/255' if you mea",
        ),
        (["--evaluation.threat.eps=4"], "An eps of 4 in linf is larger than the box [0, 1]: write '4/255' if you mean"),
        (["--evaluation.fit_attacks.pgd10.threat.eps=2"], "An eps of 2 in linf is larger than the box [0, 1]"),
        # what a run waits for
        (["--checkpoint.monitor=val/worst"], "ModelCheckpoint monitors 'val/worst', which this run does not log; did"),
        (["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/los"], "did you mean 'val/loss'?"),
        (
            ["--model.scheduler=ReduceLROnPlateau", "--model.scheduler.monitor=val/x_acc"],
            "The learning-rate schedule mo",
        ),
        # checkpoints and folders
        (
            ["--ckpt_path=best"],
            "`--ckpt_path best` does not work in a new command: give the path of the checkpoint file.",
        ),
        (["--ckpt_path=hpc"], '`.fit(ckpt_path="hpc")` is set but no HPC checkpoint was found.'),
        (["--ckpt_path=."], ". cannot be read as a checkpoint (IsADirectoryError"),
        (["--ckpt_path=s3://bucket/a.ckpt"], "s3://bucket/a.ckpt cannot be read as a checkpoint (ImportError"),
        (["--trainer.default_root_dir=/proc/version"], "The run's folder /proc/version/Digits/AT/fit-"),
        (["--trainer.default_root_dir=/proc/x"], "Give another --trainer.default_root_dir."),
    ],
)
def test_a_mistake_is_one_right_sentence(args: list[str], told: str, folder: Path, capsys: Refused) -> None:  # noqa: F811
    sentence = refusal(capsys, *FIT, *args)
    said, listing, names = told.partition("there are ")
    assert said + listing in sentence
    assert all(name in sentence for name in names.strip(".").split(", "))  # beside those of other tests
    typed = [arg.rpartition("=")[2] for arg in args]
    assert not any(f"did you mean {word!r}" in sentence for word in typed)
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["fit"], "error: the following arguments are required: --evaluation.attacks, --data, --model\n"),
        (["plan", "--data=Digits"], "error: the following arguments are required: --evaluation.attacks, --model\n"),
        (["evaluate", "--data=Digits"], "error: the following arguments are required: --net\n"),
        (
            ["fit", "--data=Digits", "--model=ST", "--evaluation.attacks.x=PGD"],
            "error: the following arguments are required: --model.net\n",
        ),
        (["evaluate", "--net=Pretrained", "--data=Digits"], "the following arguments are required: --net.source\n"),
        (
            [*FIT, "--evaluation.attacks.x=Transfer"],
            "evaluation.attacks: the following arguments are required: attack, surrogate\n",
        ),
        (
            ["fit", "digits/at"],
            "'digits/at' stands alone: write settings as --name value, and a recipe as --config",
        ),
        (["fit", "--config"], "argument -c/--config: expected one argument"),
        (["fitt"], "There is no command 'fitt'; did you mean 'fit'?"),
        (["test", "--config=digits/at", "--ckpt_path=last"], "name the file."),
        (["evaluate", "--evaluation.strict=true"], "there is no option 'evaluation.strict'; did you mean '--strict'?"),
        (["evaluate", "--evaluation.samples=9"], "there is no option 'evaluation.samples'; did you mean '--samples'?"),
        (["evaluate", "--trainer.precision=bf16"], "no option 'trainer.precision'; did you mean '--precision'?"),
        (["evaluate", "--seed_everything=3"], "there is no option 'seed_everything'; did you mean '--seed'?"),
        (["evaluate", "--ckpt_path=a"], "there is no option 'ckpt_path'; did you mean '--net'?"),
        (["evaluate", "--model.net.width=4"], "there is no option 'model.net.width'; did you mean '--net.width'?"),
        (["evaluate", "--trainer.max_epochs=4"], "trainer has no setting 'max_epochs' here; there are accelerator, "),
        (["evaluate", "--trainer.device=2"], "trainer has no setting 'device' here; did you mean 'devices'?"),
        (["export", "--ckpt=a", "--folder=b"], "there is no option 'ckpt'; did you mean 'ckpt_path'?"),
        (["recipes", "--sho", "digits/at"], "unrecognized arguments: --sho"),
    ],
)
def test_so_is_one_in_the_command_itself(args: list[str], told: str, folder: Path, capsys: Refused) -> None:  # noqa: F811
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 2
    assert told in capsys.readouterr().err
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("seed_everything: 0\nmodel: [1,\ndata: 2\n", "line 4: did not find expected ',' or ']' while parsing a flow"),
        ("model:\n\tclass_path: AT\n", "line 2: found character that cannot start any token"),
        ("model: AT: 3\n", "line 1: mapping values are not allowed in this context"),
        ("model: &a {b: *a}\n", "line 1: the value is part of itself"),
        ("model: !!python/object/apply:os.system ['touch pwned']\n", "line 1: could not determine a constructor"),
        ("just words\n", "holds a value, not settings such as `seed_everything: 0`."),
        ("- 1\n- 2\n", "holds a list, not settings"),
        ("# nothing\n", "holds nothing, not settings"),
        ("trainer: 3\n", "error: The section trainer must hold settings, got 3."),
        ("seed_everything: 1\ntrainer: {max_epochs: 3}\nseed_everything: 2\n", "line 3: 'seed_everything' stands here"),
        ("trainer:\n  max_epochs: 3\n  devices: 1\n  max_epochs: 4\n", "(first on line 2): leave one out."),
        ("trainer: {max_epoch: 3}\n", "error: trainer has no setting 'max_epoch'; did you mean 'max_epochs'?"),
        ("modle: {class_path: AT}\n", "error: there is no section 'modle'; did you mean 'model'?"),
        ("modle: AT\n", "error: there is no option 'modle'; did you mean 'model'?"),
        ("model: {class_pth: AT}\n", "error: model: AT has no setting 'class_pth'; did you mean 'class_path'?"),
        ("weights_only: false\n", "mine/a.yaml sets weights_only to false, with which a checkpoint can run any code"),
    ],
)
def test_a_file_is_told_with_name_line_and_reason(text: str, told: str, folder: Path, capsys: Refused) -> None:  # noqa: F811
    Path("mine").mkdir()
    Path("mine/a.yaml").write_text(text)
    sentence = refusal(capsys, *FIT, "--config=mine/a.yaml")
    assert told in sentence
    assert sentence.startswith("error: mine/a.yaml") or told.startswith("error: ")
    assert [str(path) for path in sorted(Path().rglob("*"))] == ["mine", "mine/a.yaml"]


def test_a_file_of_bytes_is_no_config(folder: Path, capsys: Refused) -> None:  # noqa: F811
    Path("last.ckpt").write_bytes(bytes(range(256)))
    assert "error: last.ckpt cannot be read as a config (UnicodeDecodeError" in refusal(
        capsys, "fit", "--config=last.ckpt"
    )


PART = {
    "twice": (
        "class_path: AT\ninit_args: {a: 1}\nclass_path: MART\n",
        "line 3: 'class_path' stands here for the second",
    ),
    "open": ("class_path: AT\ninit_args: [\n", "line 3: did not find expected node content"),
    "one line": ("class_path: [", "line 2: did not find expected node content"),
    "endless": ("class_path: &a {b: *a}\n", "line 1: the value is part of itself"),
    "empty": ("# nothing\n", "holds nothing, not settings"),
    "bytes": ("\udcff\udcfe", "cannot be read as a config (UnicodeDecodeError"),
}
KINDS = ["twice", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("empty", "bytes"))]
SETTINGS = [
    *("--model=part.yaml", "--model.net=part.yaml", "--model.init_args.net=part.yaml", "--data=part.yaml"),
    *("--model.attack.threat=part.yaml", "--model.optimizer=part.yaml", "--model.regularizers+=part.yaml"),
    *("--evaluation=part.yaml", "--evaluation.attacks=part.yaml", "--checkpoint=part.yaml", "--trainer=part.yaml"),
    *("--trainer.callbacks=part.yaml", "--trainer.logger=part.yaml", "--evaluation.attacks={x: part.yaml}"),
    "--config={data: part.yaml}",
]
CONFIGS = [
    *("model: part.yaml", "data: part.yaml", "evaluation: part.yaml", "trainer: {callbacks: [part.yaml]}"),
    *(
        "model: {init_args: {net: part.yaml}}",
        "evaluation:\n  attacks: part.yaml",
        "evaluation: {attacks: {x: part.yaml}}",
    ),
    "model: inner/net.yaml",
]


def write_part(kind: str) -> str:
    content, told = PART[kind]
    Path("mine/inner").mkdir(parents=True)
    Path("mine/part.yaml").write_bytes(content.encode(errors="surrogateescape"))
    Path("mine/inner/net.yaml").write_text("class_path: AT\ninit_args: {net: ../part.yaml}\n")
    return told


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_part_in_a_file_is_told_with_name_line_and_reason(
    kind: str,
    setting: str,
    folder: Path,  # noqa: F811
    capsys: Refused,
) -> None:
    told = write_part(kind)
    sentence = refusal(capsys, *FIT, setting.replace("part.yaml", "mine/part.yaml"))
    assert re.search(rf"mine/part\.yaml,? {re.escape(told)}", sentence)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("kind", KINDS)
def test_so_is_one_that_a_config_names_from_its_own_folder(
    kind: str,
    config: str,
    folder: Path,  # noqa: F811
    capsys: Refused,
) -> None:
    told = write_part(kind)
    Path("mine/a.yaml").write_text(config)
    part = "mine/(inner/../)?part.yaml"
    assert re.search(rf"{part},? {re.escape(told)}", refusal(capsys, *FIT, "--config", "mine/a.yaml"))


@pytest.mark.parametrize("kind", PART)
def test_parts_in_files_are_read_as_strictly(kind: str, folder: Path, capsys: Refused) -> None:  # noqa: F811
    told = write_part(kind)
    for words in (["--model.net=mine/part.yaml"], ["--model.net", "mine/part.yaml"]):
        assert re.search(rf"mine/part.yaml,? {re.escape(told)}", refusal(capsys, *FIT, *words))


def test_of_several_files_the_one_with_the_error_is_told(folder: Path, capsys: Refused) -> None:  # noqa: F811
    Path("net.yaml").write_text("class_path: SmallConvNet\ninit_args: {in_channels: 1}\n")
    Path("data.yaml").write_text("class_path: Digits\r\ninit_args: {\r\n")
    Path("large.ckpt").write_bytes(b"a: [\n" * 300_000)
    others = ["--model.net=net.yaml", "--ckpt_path=large.ckpt", "--data=data.yaml"]
    assert "error: data: data.yaml, line 3: did not find" in refusal(capsys, *FIT, *others)


def test_one_attack_of_a_file_is_not_said_to_be_missing(folder: Path, capsys: Refused) -> None:  # noqa: F811
    Path("pgd.yaml").write_text("class_path: PGD\n")
    assert "the file pgd.yaml cannot be named here" in refusal(capsys, *FIT, "--evaluation.attacks.x=pgd.yaml")
    Path("a.yaml").write_text("evaluation: {attacks: {x: pgd.yaml}}\ntrainer: {max_epochs: ten}\n")
    assert "trainer.max_epochs: expected an integer" in refusal(capsys, *FIT, "--config=a.yaml")  # all before is read


@pytest.mark.slow
def test_only_the_command_line_lets_a_checkpoint_run_code(folder: Path, capsys: Refused) -> None:  # noqa: F811
    """Nor does it for a file that is fetched, whatever says where."""
    for text in ("{weights_only: false}", "{weights_only: no}", "weights_only: off\nseed_everything: 1"):
        assert "sets weights_only to false" in refusal(capsys, *FIT, f"--config={text}")
    assert "sets weights_only to false" in refusal(capsys, "--config={fit: {weights_only: false}}", "fit")
    Path("a.yaml").write_text("ckpt_path: http://127.0.0.1:9/a.ckpt\n")
    for address in ("--ckpt_path=http://127.0.0.1:9/a.ckpt", "--ckpt_path=s3://bucket/a", "--config=a.yaml"):
        told = refusal(capsys, "test", *FIT[1:], address, "--weights_only=false")
        assert "`--weights_only false` would let" in told
        assert "run any code: download the file" in told
