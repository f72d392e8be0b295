"""Forks of a process that has torch, and what the tests run, and has not used it yet: they start in a blink.

Python has one fork server a process, which the first fork starts: what it is to import stands here for all.
"""

import multiprocessing
from functools import cache
from multiprocessing.context import ForkServerContext

PRELOADED = [
    "torch._dynamo",
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
