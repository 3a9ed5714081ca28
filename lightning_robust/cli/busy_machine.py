"""How the threads of a computation wait for each other where other processes are at work."""

import os
import time

_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Environment variables by which a user decides it."""


def share_cores() -> None:
    """Let threads that wait for each other sleep, if other processes are at work and the user has not decided.

    OpenMP's threads wait by spinning, which is fastest while each has a core of its own. Where another process takes
    one of the cores, they spin away the time in which the thread that they wait for could run, and digits/at takes
    many times as long. Sleeping threads leave the core to it, and compute the same. They wake more slowly, hundreds of
    times a step, so that it is not done on a free machine.

    Must be called before torch is imported: OpenMP reads its environment when it is loaded.
    """
    if any(name in os.environ for name in _SETTINGS):
        return
    for _ in range(3):  # what runs for a moment only, such as a daemon, is gone at the next look
        if not others_running():
            return
        time.sleep(0.02)
    os.environ["OMP_WAIT_POLICY"] = "passive"


def others_running() -> int:
    """Return how many threads of other processes run or wait for a core; 0 where the system does not tell."""
    try:
        with open("/proc/loadavg") as file:
            return max(int(file.read().split()[3].partition("/")[0]) - 1, 0)  # this process itself runs, too
    except (OSError, IndexError, ValueError):
        return 0
