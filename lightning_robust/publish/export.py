"""Export of trained nets for others: `lightning-robust export` and `lightning-robust push`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_robust.attacks import PGD
from lightning_robust.evaluation.provenance import versions
from lightning_robust.models.held_out import HELD_OUT, held_out_of
from lightning_robust.models.net_config import build_net, net_class
from lightning_robust.models.pretrained import load_named_weights
from lightning_robust.models.standalone import trained_net
from lightning_robust.models.weight_files import (
    CONFIG,
    WEIGHTS,
    about_text,
    extract_weights,
    find_weights,
    read_checkpoint,
    read_config,
)
from lightning_robust.publish.evaluations import RecordedEvaluation, evaluations_of, strongest
from lightning_robust.publish.model_card import model_card
from lightning_robust.threat import Threat
from lightning_robust.utils.extras import import_extra
from lightning_robust.utils.files import atomic_write
from lightning_robust.utils.messages import describe_error, one_line
from lightning_robust.utils.sha256 import file_sha256
from lightning_robust.utils.writers import write_json

REPORT, CARD = "robustness.json", "README.md"


def export_weights(
    ckpt_path: str, folder: str, evaluation: str | None = None, name: str | None = None, license: str | None = None
) -> str:
    """Write a trained net with what others need to use and to judge it, and return the folder.

    `model.safetensors` holds the net's weights alone (with Lightning's weight averaging the averaged ones),
    `config.json` which net it is, its training, what was held out and the checksums, `README.md` the model card with
    the run's `config.yaml`, and `robustness.json` the evaluation. Read them before you publish them: a recipe may name
    folders.

    Args:
        ckpt_path: the checkpoint of a defense.
        folder: where to write.
        evaluation: the `robustness.json` of `lightning-robust test` on this very checkpoint; by default the strongest
            one among the runs beside the checkpoint's own, of those at the threat of the training if there are any.
        name: how the card calls the net, such as the `organisation/name` it will have; by default the folder.
        license: identifier of the licence that the weights are under, such as "mit".

    Raises:
        ImportError: without safetensors (the extra `zoo`).
        OSError: if the folder cannot be written.
        ValueError: for a file that is no checkpoint of a defense, weights that do not fit the net it describes, or an
            evaluation of other weights.
    """
    library = import_extra("safetensors.torch", "zoo")
    checkpoint, run = read_checkpoint(ckpt_path), Path(ckpt_path).resolve().parent.parent
    if "defense" not in checkpoint:
        raise ValueError(f"{ckpt_path} was not written in training a defense of lightning_robust.")
    try:
        about = _about(checkpoint)
        net, weights = _net(checkpoint, extract_weights(checkpoint, ckpt_path))
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(
            f"{ckpt_path} lacks a valid description of its net or training "
            f"({describe_error(error).removesuffix('.')}): export a checkpoint that `lightning-robust fit` saved."
        ) from error
    loadable = net is not None and net_class(net["class_path"]) is not None
    if net is not None and loadable:
        built = load_named_weights(build_net(net), weights, ckpt_path)
        net["init_args"] |= getattr(built, "adapted", {})
    digest = file_sha256(ckpt_path)
    found = [each for each in evaluations_of({digest}, [run.parent]) if each.report.get("stage") == "test"]
    if evaluation is None:
        chosen = strongest(found, str(Threat(**about["threat"])) if about["threat"] else None)
        report = None if chosen is None else dict(chosen.report)
    else:
        report = _report(evaluation, digest)
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    # copies: tensors that share their memory, or lie in another order, are stored like any others
    copies = {key: value.clone().contiguous() for key, value in weights.items()}
    try:
        with atomic_write(place / WEIGHTS) as beside:
            # not its `save_file`, which makes a file that nobody else may read
            told = about_text(net=net, **{HELD_OUT: about[HELD_OUT]})
            beside.write_bytes(library.save(copies, metadata=told))
    except Exception as error:  # its own class of errors has no public name
        raise OSError(f"{place / WEIGHTS} was not written ({describe_error(error)})") from error
    settings = (net or {}).get("init_args", {})
    config = {
        "net": net,
        "loadable": loadable,
        "num_classes": settings.get("num_classes"),
        "in_channels": settings.get("in_channels"),
        **about,
        "sha256": file_sha256(place / WEIGHTS),
        "checkpoint_sha256": digest,
    }
    write_json(config, place / CONFIG)
    (place / REPORT).unlink(missing_ok=True)  # an earlier export's
    if report:
        write_json(report, place / REPORT)
    recipe = run / "config.yaml"
    text = recipe.read_text() if recipe.is_file() else None
    card = model_card(name or folder, config, report, text, license, {_place(test, run): test for test in found})
    with atomic_write(place / CARD) as beside:
        beside.write_text(card)
    return folder


def push_weights(folder: str, repo_id: str, private: bool = True) -> str:
    """Upload an exported folder to the Hugging Face Hub and return its address.

    Args:
        folder: what `export_weights` wrote; nothing else in it is uploaded.
        repo_id: `organisation/name`; created if it is not there.
        private: whether a repository that is created is for its members only.

    Raises:
        ImportError: without huggingface_hub (the extra `zoo`).
        ValueError: for a folder that is not whole, or if the Hub does not take it.
    """
    hub, files = import_extra("huggingface_hub", "zoo"), [WEIGHTS, CONFIG, REPORT, CARD]
    weights = find_weights(Path(folder, WEIGHTS))
    if read_config(weights) is None or not Path(folder, CARD).is_file():
        raise ValueError(f"{folder!r} is no whole export: it needs {WEIGHTS}, {CONFIG} and {CARD}.")
    try:
        address = hub.create_repo(repo_id, private=private, exist_ok=True)
        hub.upload_folder(repo_id=repo_id, folder_path=folder, allow_patterns=files, delete_patterns=[REPORT])
    except Exception as error:  # its releases raise what requests, httpx and their successors do
        raise ValueError(
            f"The Hugging Face Hub did not take {repo_id!r} ({describe_error(error)}) It needs a connection and "
            "`hf auth login` with a token that may write there."
        ) from error
    return str(address)


def _net(checkpoint: Mapping[str, Any], weights: dict[str, Tensor]) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    """The net's description, if the command line stored one, and the weights under its own names."""
    net, prefix = trained_net(checkpoint)
    return net, {name.removeprefix(prefix): value for name, value in weights.items()}


def _about(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the checkpoint was trained.

    A checkpoint may be untrusted, so each part is made what the card takes it for.
    """
    if not str(checkpoint["defense"]).isidentifier():
        raise ValueError(f"{checkpoint['defense']!r} is not the name of a defense")
    threat = _threat(checkpoint)
    return {
        "defense": str(checkpoint["defense"]),
        "threat": None if threat is None else vars(Threat(**threat)),
        "epoch": int(checkpoint["epoch"]),
        "averaged": "current_model_state" in checkpoint,
        HELD_OUT: held_out_of(checkpoint),
        "versions": {**versions(), "lightning of the checkpoint": one_line(checkpoint["pytorch-lightning_version"])},
    }


def _threat(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the threat of the training, or None."""
    stored = checkpoint.get("hyper_parameters", {})
    if checkpoint["defense"] == "Standard" or "attack" not in stored:
        return None
    attack = stored["attack"] or {"init_args": {}}
    if "init_args" not in attack and "class_path" not in attack:  # of a class that is not stored
        return None
    if "attacks" in attack.get("init_args", {}):  # which may have several threats
        return None
    threat = attack.get("init_args", {}).get("threat")
    return dict(vars(Threat(**threat) if threat else PGD().threat))


def _report(path: str | Path, digest: str) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads(Path(path).read_text())
        of = (report["checkpoint"] or {}).get("sha256")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as a robustness.json: {error}.") from error
    if of != digest:
        raise ValueError(f"{str(path)!r} is of other weights: its checkpoint has the SHA-256 {of}, this one {digest}.")
    return report


def _place(test: RecordedEvaluation, run: Path) -> str:
    return test.path.relative_to(run.parent).as_posix()
