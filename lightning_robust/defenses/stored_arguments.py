"""A defense's constructor arguments as plain data in its checkpoint, and the parts made of them again.

A checkpoint may be untrusted: nothing in it is imported or run. Parts are rebuilt only if their class is one of
this package's own; of others the checkpoint holds the name, so that what must be given is told.
"""

import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import torch
from lightning import LightningModule
from torch import Tensor

import lightning_robust.attacks
import lightning_robust.parts
from lightning_robust.threat import Threat

if TYPE_CHECKING:
    from typing_extensions import Self

PARTS = ("attack", "reweighting", "regularizers", "weight_perturbation", "parameter_groups")
"""The arguments of every defense that are rebuilt from what is stored."""

NOT_STORED = "not_stored"
"""The key under which the checkpoint holds the name of the class of an argument that it does not hold."""

_ROOMS: tuple[ModuleType, ...] = (lightning_robust.attacks, lightning_robust.parts)


_on_classes_alone: Any = type(vars(LightningModule)["load_from_checkpoint"])
"""Lightning's class method that refuses to be called on an instance, whose result would be ignored."""


class KeepsArguments:
    """Notes what an object is made from, before any constructor may change it.

    It is a base and not a method of `Defense`, whose constructor would then be hidden from the command line.
    """

    needed_by_fit: ClassVar[Collection[str]] = ("optimizer", "scheduler")
    """The arguments that are needed by a fit alone: one that is missing is told of when it starts."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Self":
        """Return the object, with its arguments until `given_arguments` takes them."""
        self = super().__new__(cls)
        if args or kwargs:  # else it may be a copy, which no constructor takes them from
            vars(self)["_given"] = args, kwargs
        return self

    @_on_classes_alone  # type: ignore[untyped-decorator]
    def load_from_checkpoint(cls: Any, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load as Lightning does; settings that are another method's lead to an error that names the method."""
        loader: Any = super()
        try:
            return loader.load_from_checkpoint(checkpoint_path, *args, **kwargs)
        except TypeError:
            refuse_other(torch.load(checkpoint_path, map_location="cpu", weights_only=True), cls)
            raise


def refuse_other(checkpoint: Mapping[str, Any], cls: type) -> None:
    """Raise a ValueError if another defense than the class wrote the checkpoint."""
    theirs = checkpoint.get("defense", cls.__name__)
    if theirs != cls.__name__:
        raise ValueError(
            f"This checkpoint was written by {theirs}, not by {cls.__name__}: use the config it was trained with, or "
            f"set the model's class_path to {theirs}."
        )


def store_arguments(owner: Any, frame: FrameType | None, under_cli: bool, default: Any) -> dict[str, Any]:
    """Store what a module is made from in its hyper-parameters, and return all numbers and words in it, for loggers.

    Args:
        owner: the LightningModule under construction.
        frame: of its base's constructor.
        under_cli: whether the command line builds it: it stores its plain config, with all that is needed to build the
            parts again.
        default: an argument that is left out, as it can be sent to no other process.

    Raises:
        ValueError: if an argument stands for an object that the checkpoint does not hold.
    """
    constructors = constructor_arguments(frame, owner)
    if (outermost := given_arguments(owner)) is not None:
        constructors.append(outermost)  # as they were given, which a subclass may have changed since
    refuse_missing(constructors[-1], owner.needed_by_fit)
    given = {name: value for name, value in constructors[-1].items() if value is not default}
    owner.save_hyperparameters(*([] if under_cli else [stored(given)]), logger=False, frame=frame)
    return plain_settings(constructors)


def given_arguments(owner: KeepsArguments) -> dict[str, Any] | None:
    """Return the arguments that an object's class was called with, and its defaults, once; None if not known.

    Args:
        owner: the object under construction.
    """
    args, kwargs = vars(owner).pop("_given", ((), {}))
    signature = inspect.signature(type(owner).__init__)
    try:
        bound = signature.bind(owner, *args, **kwargs)
    except TypeError:  # a class with a `__new__` of its own, which did not pass them on
        return None
    bound.apply_defaults()
    _, *parameters = signature.parameters.values()
    return _flat(parameters, bound.arguments)


def constructor_arguments(frame: FrameType | None, owner: Any) -> list[dict[str, Any]]:
    """Return the arguments of the constructors that run, as they are by now: the given frame's first.

    Args:
        frame: of a constructor of `owner`.
        owner: the object under construction.
    """
    found: list[dict[str, Any]] = []
    while frame is not None and frame.f_code.co_name == "__init__" and "__class__" in frame.f_locals:
        values, cls = frame.f_locals, frame.f_locals["__class__"]
        first, *parameters = inspect.signature(cls.__init__).parameters.values()
        if values.get(first.name) is not owner:
            break
        found.append(_flat(parameters, values))
        frame = frame.f_back
    return found


def _flat(parameters: Sequence[inspect.Parameter], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a constructor's named arguments and of those that it takes by any name."""
    given: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            given |= values[parameter.name]
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            given[parameter.name] = values[parameter.name]
    return given


def plain_settings(constructors: Sequence[Mapping[str, Any]]) -> dict[str, bool | int | float | str]:
    """Return all numbers and words among the arguments of an object's constructors, for loggers."""
    every = {name: value for given in constructors for name, value in given.items()}
    return {name: value for name, value in every.items() if isinstance(value, (bool, int, float, str))}


def stored(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return constructor arguments as plain data, without the net.

    Example:
        >>> from lightning_robust.attacks import PGD
        >>> found = stored({"beta": 6.0, "attack": PGD(Threat("l2", 0.5)), "optimizer": print})
        >>> found["beta"], found["attack"]["class_path"], found["attack"]["init_args"]["threat"]["eps"]
        (6.0, 'lightning_robust.attacks.PGD', 0.5)
        >>> found["optimizer"]
        {'not_stored': 'builtins.print'}
    """
    found: dict[str, Any] = {}
    for name, value in arguments.items():
        if name != "net":
            found[name] = _described(value) if name in PARTS else _plain(value)
    return found


def rebuilt(value: Any) -> Any:
    """Return the part, or the parts of a sequence, that `stored` described; anything else as it is."""
    if isinstance(value, (list, tuple)):
        return [rebuilt(part) for part in value]
    if not isinstance(value, Mapping):
        return value
    if "class_path" not in value:
        return {key: rebuilt(part) for key, part in value.items()}
    name = str(value["class_path"]).rpartition(".")[2]
    cls = _public(name)
    if cls is None:
        raise ValueError(f"{value['class_path']!r} is no part of this package: give the object itself.")
    settings = {key: rebuilt(setting) for key, setting in value.get("init_args", {}).items()}
    if isinstance(settings.get("threat"), Mapping):
        settings["threat"] = Threat(**settings["threat"])
    return cls(**settings)


def refuse_missing(arguments: Mapping[str, Any], later: Collection[str] = ()) -> None:
    """Raise if an argument stands for an object that the checkpoint does not hold.

    Args:
        arguments: of a defense's constructor.
        later: names of those that may be missing until a fit.

    Raises:
        ValueError: naming all of them.

    Example:
        >>> refuse_missing({"teacher": {"not_stored": "torch.nn.modules.linear.Linear"}})
        Traceback (most recent call last):
        ...
        ValueError: The checkpoint does not hold the teacher (torch.nn.modules.linear.Linear) of its training: give ...
    """
    missing = {name: why for name, value in arguments.items() if name not in later and (why := _missing(value))}
    if missing:
        told = ", ".join(f"{name} ({why})" for name, why in missing.items())
        give = ", ".join(f"{name}=..." for name in missing)
        raise ValueError(
            f"The checkpoint does not hold the {told} of its training: give load_from_checkpoint {give}, or None for "
            "the default."
        )


class NotStored:
    """Stands for an optimizer, schedule or teacher that a checkpoint does not hold, and says so when a fit needs it.

    Args:
        name: "optimizer", "scheduler" or "teacher".
        kind: the class or function that the training had.
    """

    def __init__(self, name: str, kind: str) -> None:
        self.name = name
        self.kind = kind

    def __call__(self, *args: Any) -> NoReturn:
        """Raise.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"The model was loaded from a checkpoint, which does not hold the {self.name} of its training "
            f"({self.kind}): to train on, give load_from_checkpoint {self.name}=..."
        )


def or_not_stored(name: str, value: Any) -> Any:
    """Return a callable argument as it is, or what stands for one that the checkpoint does not hold."""
    kind = _missing(value)
    return value if kind is None else NotStored(name, kind)


def _missing(value: Any) -> str | None:
    """Return the name of what an argument, or a part of it, stood for, if the checkpoint does not hold it."""
    if isinstance(value, Mapping):
        return value.get(NOT_STORED) or next((name for part in value.values() if (name := _missing(part))), None)
    parts = value if isinstance(value, (list, tuple)) else ()
    return next((name for part in parts if (name := _missing(part))), None)


def _plain(value: Any) -> Any:
    """Return plain data as it is, and the name of anything else."""
    if value is None or isinstance(value, Tensor):
        return value
    for kind in (bool, int, float, str):
        if isinstance(value, kind):  # numpy's numbers, which are floats too, could not be loaded safely
            return kind(value)
    if type(value) in (list, tuple):
        return [_plain(part) for part in value]
    if type(value) is dict and all(isinstance(key, str) for key in value):
        return {key: _plain(part) for key, part in value.items()}
    named = value if hasattr(value, "__qualname__") else type(value)
    return {NOT_STORED: f"{getattr(named, '__module__', '?')}.{named.__qualname__}"}


def _described(value: Any) -> Any:
    """Return one part, or several, by class and settings where they can be rebuilt from these."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_described(part) for part in value]
    if isinstance(value, Mapping):
        return {str(key): _described(part) for key, part in value.items()}
    room = next((room for room in _ROOMS if getattr(room, type(value).__name__, None) is type(value)), None)
    if room is None:
        return _plain(value)
    names = list(inspect.signature(type(value).__init__).parameters)[1:]
    settings = {name: getattr(value, name, {NOT_STORED: name}) for name in names}
    threat = settings.get("threat")
    if isinstance(threat, Threat):
        settings["threat"] = asdict(threat) if getattr(value, "threat_given", True) else None
    parts = {name: _described(settings[name]) for name in ("attacks",) if name in settings}
    settings = {name: _plain(setting) for name, setting in settings.items()} | parts
    if any(_missing(setting) for setting in settings.values()):
        return _plain(value)
    return {"class_path": f"{room.__name__}.{type(value).__name__}", "init_args": settings}


def _public(name: str) -> Any:
    rooms = (room for room in _ROOMS if name in room.__all__)
    return next((getattr(room, name) for room in rooms), None)
