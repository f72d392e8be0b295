"""Processes that start in milliseconds: forks of a process that has imported torch and the code under test.

A Python process has only one fork server, which the first fork starts. So this list has the imports of all tests.
"""

import multiprocessing
from functools import cache
from multiprocessing.context import ForkServerContext

PRELOADED = [
    "torch._dynamo",
    "torch_pruning",
    "lirf_core.architectures.resnet",
    "tests.app.test_crash_points",
    "tests.e2e.processes",
    "worker.reconciler",
    "tests.frozen",
]


@cache
def forks() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context
