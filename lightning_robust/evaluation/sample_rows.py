"""The content of `samples.csv`: what an evaluation found about each sample."""

from collections.abc import Mapping
from typing import Any

from lightning_robust.attacks.base import Attack
from lightning_robust.evaluation.samples import Samples
from lightning_robust.evaluation.stages import named_stages
from lightning_robust.evaluation.verdicts import STANDING


def sample_rows(
    samples: Samples, attacks: Mapping[str, Attack], indexed: bool = True
) -> tuple[list[str], list[list[Any]]]:
    """Build the head and the lines of `samples.csv`, one line a sample.

    For each attack they tell the stage that broke the sample, the class predicted on the last example made from it, and
    the size of that example's perturbation.

    Args:
        samples: all samples, with what `Evaluation` found.
        attacks: the attacks by name.
        indexed: whether it is known where the samples stand in the dataset; otherwise their index is left empty.
    """
    index = samples.index.tolist() if indexed else [""] * len(samples)
    head, values = ["index", "label", "clean"], [index, samples.y.tolist(), samples.clean.tolist()]
    for name, attack in attacks.items():
        verdicts, names = samples.verdicts[name], [stage.name for stage in named_stages(name, attack)]
        head += [f"{name}/broken_by", f"{name}/class", f"{name}/size"]
        values.append(["" if number == STANDING else names[number] for number in verdicts.broken.tolist()])
        values.append(verdicts.predicted.tolist())
        values.append([f"{size:.6g}" for size in verdicts.size.tolist()])
    head.append("robust")
    values.append(samples.robust().long().tolist())
    return head, [list(line) for line in zip(*values, strict=True)]
