"""The examples that an evaluation left, as images within a page."""

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from lightning_robust.publish.evaluations import RecordedAttack, RecordedEvaluation


def examples(evaluation: RecordedEvaluation) -> Iterator[dict[str, Any]]:
    """List the examples that the evaluation left, as images within the page."""
    path = evaluation.beside("examples", ".npz")
    if not path.is_file():
        return
    names = evaluation.class_names
    with np.load(path, allow_pickle=False) as kept:
        columns = {name: kept[name] for name in kept.files}
    for i in range(len(columns["index"])):
        y, before, after = (_name(names, int(columns[key][i])) for key in ("label", "clean", "predicted"))
        broken, attack = bool(columns["broken"][i]), str(columns["attack"][i])
        wrong = not broken and int(columns["label"][i]) != int(columns["clean"][i])
        how = _how(evaluation.attacks[attack], attack, float(columns["size"][i]), broken)
        yield {
            "clean": _image(columns["x"][i]),
            "adversarial": _image(columns["x_adv"][i]),
            "perturbation": _image(columns["perturbation"][i]),
            "before": before,
            "after": after,
            "right": not broken and not wrong,
            "times": f"times {columns['times'][i]:.3g}" if columns["times"][i] else "none",
            "told": f"{y}; image {int(columns['index'][i])}; {'misclassified without an attack' if wrong else how}",
        }


def _how(attack: RecordedAttack, name: str, size: float, broken: bool) -> str:
    """Say whether an image was broken, and how far away the example is."""
    distance = f"{attack.threat.norm} distance {size:.4g}"
    if broken:
        return f"broken by {name}, {distance}"
    return f"nearest example of {name} beyond the radius, {distance}" if attack.minimizes else f"withstands {name}"


def _name(names: list[str], label: int) -> str:
    return names[label] if 0 <= label < len(names) else str(label)


def _image(pixels: np.ndarray[Any, Any]) -> str:
    """Turn pixels [h w c] of 8 bits into the address of an image that holds itself."""
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    written = io.BytesIO()
    small = max(picture.size) <= 64
    picture.save(written, "PNG") if small else picture.save(written, "WEBP", quality=88)
    kind = "png" if small else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(written.getvalue()).decode()}"
