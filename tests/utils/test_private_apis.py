"""What the package uses of other libraries' private names: in one place, and still what it was."""

import ast
import importlib
import inspect
import pkgutil
import textwrap
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from lightning import Callback
from lightning.fabric.utilities.distributed import _DatasetSamplerWrapper
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.core.mixins import HyperparametersMixin
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.overrides.distributed import _IndexBatchSamplerWrapper
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.optim import SGD, lr_scheduler
from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler

import lightning_robust
from lightning_robust.cli.parser import Parser
from lightning_robust.defenses import Standard
from lightning_robust.metrics import EffectiveMargin
from lightning_robust.utils import private_apis as private
from tests.helpers.ddp import quiet_trainer
from tests.helpers.few import Few, norm_net
from tests.helpers.foreign import ForeignModule, loader

PACKAGE = Path(lightning_robust.__file__).parent
FILE = PACKAGE / "utils/private_apis.py"
TREES = {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
NAMED_TUPLE = {"_asdict", "_fields", "_replace"}  # documented, and private only so that no field has such a name
LIBRARIES = ("lightning", "torch", "torchmetrics")


def is_private(name: Any) -> bool:
    return isinstance(name, str) and name.isidentifier() and name.strip("_") != "" and name[0] == "_" != name[:2][-1]


def own_names(tree: ast.AST) -> Iterator[str]:
    """The names that a module of ours binds: functions, classes, variables, attributes, keys of `vars(self)`."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and on_itself(node.value):
            yield node.attr
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "vars(self)":
            yield from (key.value for key in ast.walk(node.slice) if isinstance(key, ast.Constant))


def on_itself(node: ast.AST) -> bool:
    return ast.unparse(node) in ("self", "cls", "super()")


def foreign(tree: ast.AST, ours: set[str]) -> list[str]:
    """Uses of private names that are none of ours, but for those on the object itself."""
    texts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not on_itself(node.value):
            found += [ast.unparse(node)] if is_private(node.attr) and node.attr not in ours else []
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            module = getattr(node, "module", None) or ""
            names = [f"{module}.{alias.name}" for alias in node.names]
            found += [n for n in names if not n.startswith("lightning_robust.") and any(map(is_private, n.split(".")))]
        elif isinstance(node, ast.Constant) and id(node) not in texts and is_private(node.value):
            own = node.value in ours or node.value.startswith("_lightning_robust")  # such as a function of the shell's
            found += [node.value] if not own and node.value != "_acc" else []  # an ending of names
    return found


OURS = {name for path, tree in TREES.items() if path != FILE for name in own_names(tree)} | NAMED_TUPLE


@pytest.mark.parametrize("path", [path for path in TREES if path != FILE], ids=lambda path: path.stem)
def test_no_other_file_reaches_into_a_library(path: Path) -> None:
    assert not foreign(TREES[path], OURS), "move this into lightning_robust/utils/private_apis.py"


def test_private_names_are_seen() -> None:
    source = (
        "from torch._dynamo import config\nimport torch._C\nx = torch._C\nloop._mode\ngetattr(a, '_b')\nh = ('_c',)"
    )
    assert len(foreign(ast.parse(source), set())) == 6
    source = "from a import b\nself._x, cls._y, b._ours, row._asdict(), a.__dict__, f'{a}_acc', '__init__', '_'"
    source += "\n'_lightning_robust_b'"
    assert not foreign(ast.parse(source), {"_ours", *NAMED_TUPLE})


def private_names(cls: type) -> set[str]:
    """The private names of a class: what it defines, and what its methods set on the object."""
    return {name for name in (*vars(cls), *own_names(source_of(cls))) if is_private(name)}


def source_of(cls: type) -> ast.AST:
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError):  # written in C++
        return ast.Module([], [])


def classes() -> Iterator[type]:
    for module in pkgutil.walk_packages([str(PACKAGE)], "lightning_robust."):
        if not module.name.endswith("__main__"):
            found = vars(importlib.import_module(module.name)).values()
            yield from (cls for cls in found if inspect.isclass(cls) and cls.__module__ == module.name)


def test_classes_use_of_their_bases_what_is_listed() -> None:
    """Also by chance: an attribute of ours that has the name of one of theirs."""
    known: dict[type, set[str]] = {}
    used: dict[str, set[str]] = {}
    for cls in classes():
        bases = [
            base for base in cls.__mro__ if base.__module__.partition(".")[0] in ("lightning", "torch", "torchmetrics")
        ]
        if not bases:
            continue
        tree = source_of(cls)
        attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
        here = {node.attr for node in attributes if on_itself(node.value)} | set(own_names(tree))
        for base in reversed(bases):
            if base not in known:
                known[base] = private_names(base)
            for name in filter(is_private, here & known[base]):
                used.setdefault(f"{base.__module__}.{base.__qualname__}", set()).add(name)
    assert used == {base: set(names) for base, names in private.OVERRIDDEN.items()}


def test_each_says_where_it_was_seen_and_is_tried() -> None:
    tree = TREES[FILE]
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert {function.name for function in functions} | {"BatchNorm", "ONE_CYCLE_PHASES", "SCHEDULE_RATES"} == set(FORMS)
    releases = [f"Seen in {name} {number}" for name, number in private.SEEN.items()]
    told = [ast.get_docstring(function) or "" for function in functions if function.name != "evaluation_loop"]
    assert all(any(release in text for release in releases) for text in told)


class Typed(Tensor):
    """Stays what it is in every operation, as torch's subclasses do."""


def a_subclass_becomes_plain() -> bool:
    typed = torch.ones(2).as_subclass(Typed)
    with private.plain_tensors():
        return type(typed + 1) is Tensor and type(typed + 1) is not type(typed)


def transforms_are_seen() -> bool:
    seen = []
    torch.func.vmap(lambda x: (seen.append(private.in_function_transform()), x)[1])(torch.ones(2))
    return seen == [True] and not private.in_function_transform()


def compilation_is_seen() -> bool:
    module, before = nn.Linear(1, 1), private.is_compiled(nn.Linear(1, 1))
    module.compile()
    return private.is_compiled(module) and private.is_compiled(torch.compile(lambda x: x)) and not before


def more_graphs_are_allowed() -> bool:
    import torch.compiler.config as public

    before = public.recompile_limit
    try:
        private.allow_graphs(before + 3)
        private.allow_graphs(1)
        return public.recompile_limit == before + 3
    finally:
        public.recompile_limit = before


def a_method_knows_its_module() -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        scripted = torch.jit.script(nn.Linear(2, 2))
    (weight, _) = private.module_of_script_method(scripted.forward).parameters()
    return bool(weight.data_ptr() == next(scripted.parameters()).data_ptr())


def operators_name_their_arguments() -> bool:
    names = private.argument_names(torch.ops.aten.dropout.default)
    return names == ["input", "p", "train"] and private.argument_names(torch.sin) is None


def processes_share_a_store() -> bool:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        private.process_group_store().set("key", "value")
        return private.process_group_store().get("key") == b"value" and private.process_group_store().check(["key"])
    finally:
        torch.distributed.destroy_process_group()


class InTheLoop(Callback):
    """Notes what is told of the loop that runs."""

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.loaders, self.order = private.evaluation_loaders(trainer), private.evaluation_order(trainer)
        self.loop = private.evaluation_loop(trainer)
        self.public = trainer.test_loop if trainer.testing else trainer.validate_loop
        self.source = private.source_of(self.loop)

    on_test_epoch_start = on_validation_epoch_start

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        self.loaders = private.prediction_loaders(trainer)


def the_loop_tells(what: str) -> bool:
    data, found = [loader(4), loader(6)], InTheLoop()
    trainer = quiet_trainer(callbacks=[found])
    for stage in (trainer.validate, trainer.test):
        stage(ForeignModule(), data, verbose=False)
        right = {
            "loaders": [len(each.dataset) for each in found.loaders] == [4, 6],
            "order": found.order == "sequential",
            "loop": found.loop is found.public,
            "source": found.source is data,
        }
        if not right[what]:
            return False
    return True


def predict_tells_its_loaders() -> bool:
    found = InTheLoop()
    quiet_trainer(callbacks=[found]).predict(Standard(norm_net()), Few())
    batches = private.inner_batch_sampler(found.loaders[0].batch_sampler)
    return len(found.loaders) == 1 and type(batches) is BatchSampler


def samplers_are_unwrapped() -> bool:
    batches = BatchSampler(SequentialSampler(range(3)), 2, False)
    wrapped = private.inner_batch_sampler(_IndexBatchSamplerWrapper(batches))
    return isinstance(wrapped.sampler, SequentialSampler) and private.inner_batch_sampler(batches) is batches


def samplers_within_are_found() -> bool:
    sampler = RandomSampler(range(3))
    return private.inner_sampler(_DatasetSamplerWrapper(sampler)) is sampler and private.inner_sampler([1]) is None


def the_last_pass_of_averaging_is_seen() -> bool:
    trainer = quiet_trainer()
    before = private.skips_backward(trainer)
    trainer.fit_loop._skip_backward = True  # as Lightning's callback does
    return (
        private.skips_backward(trainer)
        and trainer.fit_loop.epoch_loop.automatic_optimization._skip_backward
        and not before
    )


class Built(ForeignModule):
    """Notes who builds it."""

    def __init__(self) -> None:
        super().__init__()
        self.by_command_line = private.built_by_command_line(HyperparametersMixin)


def the_command_line_is_seen() -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of the words that started the tests
        cli = LightningCLI(Built, run=False, args=[], save_config_callback=None, trainer_defaults={"logger": False})
    return cli.model.by_command_line and not Built().by_command_line


def intervals_are_arguments() -> bool:
    steps = private.saving_intervals(ModelCheckpoint(every_n_train_steps=5))
    time = private.saving_intervals(ModelCheckpoint(train_time_interval=timedelta(seconds=3)))
    return (steps, time) == (
        {"every_n_train_steps": 5, "train_time_interval": None},
        {"every_n_train_steps": None, "train_time_interval": timedelta(seconds=3)},
    )


def what_was_saved_is_known(what: str, tmp: Path) -> bool:
    saver = ModelCheckpoint(tmp, save_last=True)
    trainer = quiet_trainer(max_epochs=1, callbacks=[saver], enable_checkpointing=True)
    trainer.fit(Standard(norm_net()), Few())
    path, step = private.last_saved(saver)
    if what == "last":
        return private.last_checkpoints(saver, trainer) == [tmp / "last.ckpt"]
    return Path(path).parent == tmp and step == trainer.global_step > 0


def the_table_of_runs_is_seen(tmp: Path) -> bool:
    return [private.logs_default_metric(TensorBoardLogger(tmp, default_hp_metric=on)) for on in (True, False)] == [
        True,
        False,
    ]


def events_are_written_after_a_close(tmp: Path) -> bool:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(tmp))
    writer.close()
    found = private.event_writer(writer)
    found.close()
    return callable(found.add_summary)


def a_metric_is_plotted() -> bool:
    metric = EffectiveMargin()
    metric.update(nn.Flatten(), torch.tensor([[[[0.8, 0.2]]]]), torch.tensor([0]))
    figure, axes = private.plot_metric(metric)
    return axes.figure is figure


def parser() -> Any:
    made = Parser()
    made.add_argument("--steps", type=int | None)
    return made


def arguments_are_listed() -> bool:
    return "steps" in {argument.dest for argument in private.arguments_of(parser())} and not private.arguments_of(None)


def types_of_arguments_are_known() -> bool:
    (steps,) = [argument for argument in private.arguments_of(parser()) if argument.dest == "steps"]
    return private.type_of_argument(steps) == int | None and private.type_of_argument(object()) is None


def schedules_keep(what: str) -> bool:
    optimizer = SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    parts = [lr_scheduler.ConstantLR(optimizer), lr_scheduler.ConstantLR(optimizer)]
    state = lr_scheduler.SequentialLR(optimizer, parts, [1]).state_dict()
    if what == "phases":
        return private.ONE_CYCLE_PHASES in vars(lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=9))
    inner = state[private.SCHEDULE_PARTS][0]
    return len(state[private.SCHEDULE_PARTS]) == 2 and isinstance(inner[private.SCHEDULE_RATES][0], float)


NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LazyBatchNorm2d, nn.SyncBatchNorm)
FORMS: dict[str, Callable[[Path], bool]] = {
    "BatchNorm": lambda _: all(issubclass(norm, private.BatchNorm) for norm in NORMS),
    "ONE_CYCLE_PHASES": lambda _: schedules_keep("phases"),
    "SCHEDULE_RATES": lambda _: schedules_keep("rates"),
    "plain_tensors": lambda _: a_subclass_becomes_plain(),
    "in_function_transform": lambda _: transforms_are_seen(),
    "is_compiled": lambda _: compilation_is_seen(),
    "allow_graphs": lambda _: more_graphs_are_allowed(),
    "module_of_script_method": lambda _: a_method_knows_its_module(),
    "argument_names": lambda _: operators_name_their_arguments(),
    "process_group_store": lambda _: processes_share_a_store(),
    "event_writer": events_are_written_after_a_close,
    "evaluation_loaders": lambda _: the_loop_tells("loaders"),
    "evaluation_loop": lambda _: the_loop_tells("loop"),
    "evaluation_order": lambda _: the_loop_tells("order"),
    "prediction_loaders": lambda _: predict_tells_its_loaders(),
    "source_of": lambda _: the_loop_tells("source"),
    "inner_batch_sampler": lambda _: samplers_are_unwrapped(),
    "inner_sampler": lambda _: samplers_within_are_found(),
    "skips_backward": lambda _: the_last_pass_of_averaging_is_seen(),
    "built_by_command_line": lambda _: the_command_line_is_seen(),
    "ddp_settings": lambda _: private.ddp_settings(DDPStrategy(static_graph=True)) == {"static_graph": True},
    "saving_intervals": lambda _: intervals_are_arguments(),
    "last_saved": lambda tmp: what_was_saved_is_known("saved", tmp),
    "last_checkpoints": lambda tmp: what_was_saved_is_known("last", tmp),
    "logs_default_metric": the_table_of_runs_is_seen,
    "plot_metric": lambda _: a_metric_is_plotted(),
    "arguments_of": lambda _: arguments_are_listed(),
    "type_of_argument": lambda _: types_of_arguments_are_known(),
}


@pytest.mark.parametrize("what", FORMS)
def test_each_is_what_it_was(what: str, tmp_path: Path) -> None:
    try:
        why = None if FORMS[what](tmp_path) else "it gives something else"
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
    if why:
        installed = ", ".join(
            f"{library} {version(library)} (seen in {seen})" for library, seen in private.SEEN.items()
        )
        pytest.fail(
            f"{what} in lightning_robust/utils/private_apis.py is not what it was ({why}). Installed are {installed}: "
            "look up what became of the private names in its docstring, mend it there, and note the release in SEEN."
        )
