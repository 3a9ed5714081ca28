"""All that the package uses of other libraries without their promise to keep it.

Names that begin with an underscore may change in any release. They stand here and nowhere else, each in a function
that says why no public way leads there. Methods that subclasses override stand in `OVERRIDDEN`.
"""

import sys
from contextlib import AbstractContextManager
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

SEEN = {"torch": "2.14.1", "lightning": "2.6.6", "torchmetrics": "1.9.0", "jsonargparse": "4.53.0"}
"""The releases in which every private name below was seen to be what is said of it."""

OVERRIDDEN = {
    "lightning.pytorch.cli.LightningCLI": {
        "_add_subcommands": "builds the parser of the command that was asked for alone",
        "_get": "reads a section of the configuration",
        "_parse_ckpt_path": "lets the configuration win over what a checkpoint stored",
        "_parser": "gives the parser of a command",
        "_prepare_subcommand_kwargs": "lets a restarted job resume from its newest checkpoint",
        "_run_subcommand": "leaves no folder after a start that failed",
    },
    "lightning.pytorch.callbacks.callback.Callback": {"_generate_state_key": "makes the key of a state by its name"},
    "lightning.pytorch.callbacks.weight_averaging.WeightAveraging": {
        "_average_model": "holds the average, which is one of the parameters alone instead of a copy of the module"
    },
    "lightning.pytorch.callbacks.progress.rich_progress.RichProgressBar": {
        "_get_train_description": "counts epochs from 1",
        "_init_progress": "removes the bar of a finished epoch",
    },
    "lightning.pytorch.core.module.LightningModule": {"_trainer": "is None where no trainer is attached"},
}
"""Private methods and attributes of base classes that subclasses of this package override or use, and for what.

The public methods beside them leave no place for it: the first four are called between two steps of a public one.
"""

BatchNorm = _BatchNorm
"""The base of all batch norms of torch, synchronised and lazy ones too; the public classes have no other in common.

Seen in torch 2.14.1.
"""

ONE_CYCLE_PHASES = "_schedule_phases"
"""Where `OneCycleLR` keeps its phases, which follow its length; there is no public name. Seen in torch 2.14.1."""

SCHEDULE_RATES, SCHEDULE_PARTS = "_last_lr", "_schedulers"
"""Keys of a schedule's `state_dict`: its present rates, and the schedules it consists of. Seen in torch 2.14.1."""


def plain_tensors() -> AbstractContextManager[Any]:
    """Return a context in which operations on a subclass of `Tensor` are those of `Tensor`.

    `torch._C.DisableTorchFunctionSubclass`, which torch's notes on extending it name; there is no other name.
    Seen in torch 2.14.1.
    """
    return torch._C.DisableTorchFunctionSubclass()


def in_function_transform() -> bool:
    """Return whether a transform of `torch.func`, such as `vmap`, runs; nothing public tells.

    `torch._C._functorch.peek_interpreter_stack`. Seen in torch 2.14.1.
    """
    return torch._C._functorch.peek_interpreter_stack() is not None


def is_compiled(part: Any) -> bool:
    """Return whether a module was compiled in place, or a module or function by `torch.compile`; nothing public tells.

    `nn.Module._compiled_call_impl` and `_torchdynamo_orig_callable`. Seen in torch 2.14.1.
    """
    if isinstance(part, nn.Module) and part._compiled_call_impl is not None:
        return True
    return isinstance(part, (nn.Module, FunctionType)) and hasattr(part, "_torchdynamo_orig_callable")


def allow_graphs(count: int) -> None:
    """Let `torch.compile` make at least so many graphs of a function before it runs it without.

    `torch._dynamo.config.recompile_limit`, whose public alias `torch.compiler.config.recompile_limit` is younger than
    the oldest torch that the package takes. Seen in torch 2.14.1.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, count)


def module_of_script_method(method: Any) -> Any:
    """Return the module that a method of a scripted module belongs to; its `owner` is one of C++.

    `torch.jit._recursive.wrap_cpp_module`. Seen in torch 2.14.1.
    """
    return torch.jit._recursive.wrap_cpp_module(method.owner)  # type: ignore[no-untyped-call]


def argument_names(target: Any) -> list[str] | None:
    """Return the names of the arguments of one of torch's operators, as graphs hold it; None for anything else.

    `torch._ops.OpOverload._schema`; `inspect.signature` knows none of them. Seen in torch 2.14.1.
    """
    if not isinstance(target, torch._ops.OpOverload):
        return None
    return [argument.name for argument in target._schema.arguments]


def process_group_store() -> Any:
    """Return the store that the processes of the default group share: keys and values outside of any collective.

    `torch.distributed.distributed_c10d._get_default_store`; a store of one's own needs another port.
    Seen in torch 2.14.1.
    """
    return torch.distributed.distributed_c10d._get_default_store()


def event_writer(summary_writer: Any) -> Any:
    """Return the object by which a `SummaryWriter` writes events, opened anew after it was closed.

    `SummaryWriter._get_file_writer`, as Lightning does; the public `add_hparams` opens a second run.
    Seen in torch 2.14.1.
    """
    return summary_writer._get_file_writer()


def evaluation_loaders(trainer: Any) -> list[Any]:
    """Return the data loaders of the evaluation that runs, each with the sampler that Lightning has put in.

    `_combined_loader` of the loop: `trainer.val_dataloaders` gives those of the last fit, also in `validate`.
    Seen in lightning 2.6.6.

    Args:
        trainer: in fit's validation, `validate` or `test`.
    """
    return list(evaluation_loop(trainer)._combined_loader.flattened)


def evaluation_loop(trainer: Any) -> Any:
    """Return the loop of the evaluation that runs.

    Args:
        trainer: in fit's validation, `validate` or `test`.
    """
    loops = {"validate": trainer.validate_loop, "test": trainer.test_loop}
    return loops.get(str(trainer.state.fn.value), trainer.fit_loop.epoch_loop.val_loop)


def evaluation_order(trainer: Any) -> str:
    """Return how the evaluation that runs draws from several loaders: "sequential", "min_size", ...

    `_mode` of the `CombinedLoader`, which has no public name. Seen in lightning 2.6.6.
    """
    return str(evaluation_loop(trainer)._combined_loader._mode)


def prediction_loaders(trainer: Any) -> list[Any]:
    """Return the data loaders of the `predict` that runs.

    `_combined_loader` of the loop: `trainer.predict_dataloaders` gives them in whatever they were given in.
    Seen in lightning 2.6.6.
    """
    return list(trainer.predict_loop._combined_loader.flattened)


def source_of(loop: Any) -> Any:
    """Return what a loop's data loaders come from: a data module, a module, or the loaders themselves.

    `_data_source` of the loop: `trainer.datamodule` is the last one given, also where loaders were given since.
    Seen in lightning 2.6.6.
    """
    return loop._data_source.instance


def inner_batch_sampler(batch_sampler: Any) -> Any:
    """Return the batch sampler in the wrapper that Lightning's `predict` puts around it; any other as it is.

    `_IndexBatchSamplerWrapper._batch_sampler`. Seen in lightning 2.6.6.
    """
    return getattr(batch_sampler, "_batch_sampler", batch_sampler)


def inner_sampler(dataset: Any) -> Any:
    """Return the user's sampler, where Lightning deals one out to several ranks as if it were a dataset, or None.

    `_DatasetSamplerWrapper._sampler`. Seen in lightning 2.6.6.
    """
    return getattr(dataset, "_sampler", None)


def skips_backward(trainer: Any) -> bool:
    """Return whether `StochasticWeightAveraging` makes its last pass, in which weights stay as they are.

    `fit_loop._skip_backward`, which it sets and nothing public tells. Seen in lightning 2.6.6.
    """
    return bool(trainer.fit_loop._skip_backward)


def built_by_command_line(mixin: type) -> bool:
    """Return whether `LightningCLI` builds the object that is being made, and stores its plain arguments itself.

    `_given_hyperparameters` beside `HyperparametersMixin`, by which the command line tells `save_hyperparameters`;
    nothing public tells. Seen in lightning 2.6.6.

    Args:
        mixin: Lightning's `HyperparametersMixin`.
    """
    return sys.modules[mixin.__module__]._given_hyperparameters.get() is not None


def ddp_settings(strategy: Any) -> dict[str, Any]:
    """Return the arguments that a `DDPStrategy` will give torch's `DistributedDataParallel`.

    `DDPStrategy._ddp_kwargs`; the wrapper, which has them too, is not there yet in `setup`. Seen in lightning 2.6.6.
    """
    return dict(strategy._ddp_kwargs)


def saving_intervals(checkpoint: Any) -> dict[str, Any]:
    """Return when a `ModelCheckpoint` saves within an epoch, as arguments of its constructor.

    `_every_n_train_steps` and `_train_time_interval`, which have no public names. Seen in lightning 2.6.6.
    """
    return {
        "every_n_train_steps": checkpoint._every_n_train_steps or None,
        "train_time_interval": checkpoint._train_time_interval,
    }


def last_saved(checkpoint: Any) -> tuple[str, int]:
    """Return the path of the file that a `ModelCheckpoint` saved last, and the global step at which it did.

    `_last_checkpoint_saved` and `_last_global_step_saved`; `best_model_path` may be an older one.
    Seen in lightning 2.6.6.
    """
    return checkpoint._last_checkpoint_saved, checkpoint._last_global_step_saved


def last_checkpoints(checkpoint: Any, trainer: Any) -> list[Path]:
    """Return the files that `ckpt_path="last"` chooses from.

    `ModelCheckpoint._find_last_checkpoints`, which follows its folder and names. Seen in lightning 2.6.6.
    """
    return [Path(path) for path in checkpoint._find_last_checkpoints(trainer)]


def logs_default_metric(logger: Any) -> bool:
    """Return whether a `TensorBoardLogger` adds a metric of its own to the table of runs.

    `_default_hp_metric`, which has no public name. Seen in lightning 2.6.6.
    """
    return bool(logger._default_hp_metric)


def plot_metric(metric: Any, val: Any = None, ax: Any = None) -> Any:
    """Plot a metric's value, or several.

    `Metric._plot`, by which torchmetrics' guide to metrics of one's own defines `plot`. Seen in torchmetrics 1.9.0.

    Args:
        metric: the metric whose value is plotted.
        val: what to plot instead of what `compute` gives now: a value, or several.
        ax: matplotlib axes to draw into; by default new ones.
    """
    return metric._plot(val, ax)


def arguments_of(parser: Any) -> list[Any]:
    """Return the arguments that an argument parser knows; none of what is no parser.

    `argparse.ArgumentParser._actions`, which has no public name. Seen in jsonargparse 4.53.0.
    """
    return list(getattr(parser, "_actions", ()))


def type_of_argument(argument: Any) -> Any:
    """Return the annotation that jsonargparse checks the values of an argument by, or None.

    `ActionTypeHint._typehint`, which has no public name. Seen in jsonargparse 4.53.0.
    """
    return getattr(argument, "_typehint", None)
