"""Figures reach each logger in its own way, and one that fails does not end a run."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from lightning_robust.callbacks.figure_loggers import log_figure


class Spy:
    """Notes calls of the methods that it is said to have."""

    def __init__(self, *names: str, **fields: Any) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.__dict__.update(fields)
        for name in names:
            setattr(self, name, lambda *args, _name=name, **given: self.calls.append((_name, args, given)))


class Files(Spy):
    """Of Neptune: fields that files are uploaded to."""

    def __getitem__(self, name: str) -> Spy:
        field = Spy("upload")
        field.calls = self.calls
        self.calls.append((name,))
        return field


FIGURE, PNG = Figure(), Path("figures/a.png")


@pytest.mark.parametrize(
    ("spy", "fields", "call"),
    [
        (Spy("add_figure"), {}, [("add_figure", ("a", FIGURE), {"global_step": 7, "close": False})]),
        (Spy("log_artifact"), {"run_id": "r"}, [("log_artifact", ("r", "figures/a.png", "figures"), {})]),
        (Spy("log_figure"), {}, [("log_figure", (), {"figure_name": "a", "figure": FIGURE, "step": 7})]),
        (Files("exists"), {}, [("figures/a",), ("upload", ("figures/a.png",), {})]),
        (Spy("log"), {}, []),
        (None, {}, []),
    ],
    ids=["tensorboard", "mlflow", "comet", "neptune", "unknown", "csv"],
)
def test_an_experiment_gets_it_in_its_own_way(spy: Any, fields: dict[str, Any], call: list[Any]) -> None:
    log_figure(Spy(experiment=spy, **fields), FIGURE, "a", PNG, 7)  # type: ignore[arg-type]
    assert (spy.calls if spy else []) == call


def test_a_logger_of_images_gets_the_file() -> None:
    logger = Spy("log_image", experiment=Spy("log"))
    log_figure(logger, FIGURE, "a", PNG, 7)  # type: ignore[arg-type]
    assert logger.calls == [("log_image", ("a", ["figures/a.png"]), {"step": 7})]


def test_a_logger_that_fails_is_warned_of() -> None:
    class Broken:
        @property
        def experiment(self) -> Any:
            raise ConnectionError("no network")

    with pytest.warns(UserWarning, match=r"'a' in Broken failed \(ConnectionError: no network.\) The run goes on"):
        log_figure(Broken(), FIGURE, "a", PNG, 7)  # type: ignore[arg-type]
