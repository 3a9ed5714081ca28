"""Which errors are told in one sentence, and which are bugs that show their traceback."""

import dis
import errno
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch.distributed
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_robust.cli.devices import launched_rank
from lightning_robust.utils.messages import one_line
from lightning_robust.utils.private_apis import process_group_store

TRACEBACK = "LIGHTNING_ROBUST_TRACEBACK"
"""Environment variable that brings tracebacks back, as `--traceback` does."""

_OURS = (ValueError, TypeError, OSError, ImportError)
_OF_THE_MACHINE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST}
_IN_WORKER = re.compile(r"Caught \w+ in DataLoader worker process \d+\.")
_TOLD = "lightning_robust/refused"  # key under which the rank that tells a refusal lets the others know


def is_refusal(error: BaseException) -> bool:
    """Whether an error tells the user what to change, so that one sentence is enough.

    It is one if it was raised on purpose:

    * as a ValueError, TypeError, OSError or ImportError by a `raise` statement of this package, or of any class's
      constructor: it does not take a setting. The same types out of any other instruction (`None + 1`) or function, and
      all other types (AssertionError, IndexError) are bugs, of this package or of code that a config names;
    * in the same way, in a process that loads images: torch raises its error again, with its traceback as text;
    * by Lightning as a MisconfigurationException, or by a `raise` statement of its own as one of these types or a
      RuntimeError;
    * by the operating system about a file that it will not read or write: no permission, no space, a file in the way;
    * with an `exit_status` of its own.
    """
    if isinstance(error, MisconfigurationException) or hasattr(error, "exit_status"):
        return True
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        return True
    if _IN_WORKER.match(str(error)):
        return _raised_on_purpose_in_worker(str(error))
    return isinstance(error, (*_OURS, RuntimeError)) and _raised_on_purpose(error)


def _raised_on_purpose(error: BaseException) -> bool:
    """Whether the deepest frame stopped at a `raise` statement, and whose code it is allows this type of error."""
    trace = error.__traceback__
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    frame = trace.tb_frame
    instruction = dis.opname[frame.f_code.co_code[trace.tb_lasti]]
    module = str(frame.f_globals.get("__name__", ""))
    if instruction != "RAISE_VARARGS":
        return False
    if module.startswith("lightning."):
        return True
    is_ours = module.startswith("lightning_robust.") or frame.f_code.co_name == "__init__"
    return is_ours and isinstance(error, _OURS)


def _raised_on_purpose_in_worker(told: str) -> bool:
    """Whether the last frame of a traceback in text is a `raise` statement of this package."""
    frames = re.findall(r'^  File "(.+)", line .+\n    (.*)$', told, re.MULTILINE)
    return bool(frames) and "lightning_robust" in Path(frames[-1][0]).parts and frames[-1][1].startswith("raise ")


def sentence(error: BaseException) -> str:
    """Return what a refusal says, in one line."""
    told = str(error)
    if _IN_WORKER.match(told):
        told = told.strip().splitlines()[-1].partition(": ")[2]
    return one_line(told)


def wants_traceback() -> bool:
    """Whether the environment asks for tracebacks."""
    return os.environ.get(TRACEBACK, "0") not in ("", "0")


@contextmanager
def told_in_one_sentence() -> Iterator[None]:
    """Print the sentence of a refusal that comes out of the block, and exit with its status (2 by default).

    Any other error passes, as does every error if a traceback is wanted. Of several ranks one prints. The others end
    with it: those that wait for it find their connection closed, which is no bug to show. A SIGTERM is told likewise,
    with the status that a shell gives to a command that it has ended; Lightning alone would end with 0.
    """
    try:
        yield
    except SIGTERMException as ended:
        if not launched_rank():
            print(f"error: {ended.code or 'SIGTERM has ended the command.'}", file=sys.stderr, flush=True)
        sys.exit(128 + signal.SIGTERM)
    except Exception as error:
        if wants_traceback():
            raise
        if is_refusal(error):
            _tell(error)
        elif not (isinstance(error, RuntimeError) and _was_told()):
            raise
        sys.exit(getattr(error, "exit_status", 2))


def _tell(error: Exception) -> None:
    """Print the sentence, unless rank 0 has met a refusal too or is about to.

    What every rank meets is told once. What this rank alone meets, as in its share of the images, is told by it: rank 0
    would wait for it in the next collective and never hear.
    """
    if not _has_met():  # until they have met, all ranks do the same
        if not launched_rank():
            print(f"error: {sentence(error)}", file=sys.stderr, flush=True)
    elif not launched_rank() or not _was_told(timedelta(seconds=5)):
        where = f" on rank {launched_rank()}" if launched_rank() else ""
        print(f"error{where}: {sentence(error)}", file=sys.stderr, flush=True)
        process_group_store().set(_TOLD, "1")


def _was_told(wait: timedelta = timedelta(0)) -> bool:
    """Whether another rank has told its refusal, or does so before `wait` is over."""
    if not _has_met():
        return False
    try:
        if wait:
            process_group_store().wait([_TOLD], wait)
        return bool(process_group_store().check([_TOLD]))
    except torch.distributed.DistNetworkError:  # rank 0, which may hold the store, has ended
        return True
    except torch.distributed.DistStoreError:  # nobody set the key in time
        return False


def _has_met() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
