"""What a job needs, imported once in the process that is forked for each job (worker/pool.py). Nothing else runs there:
it starts no thread and does not touch the GPU, since CUDA does not survive a fork.
"""

import gc
import importlib
import signal

from celery.platforms import set_pdeathsig

set_pdeathsig("SIGKILL")  # it ends with its worker, and the job with it
for ending in (signal.SIGINT, signal.SIGTERM):  # sent to all processes at once; the worker decides when it ends
    signal.signal(ending, signal.SIG_IGN)

for name in (
    "torch._dynamo",  # otherwise the first optimiser imports it, for seconds
    "torch_pruning",  # otherwise the first deposit imports it while its lease runs
    "lirf_core.architectures.resnet",
    "worker.deposit",
    "worker.examination",
    "worker.hardening",
    "worker.rebase",
    "worker.measurement",
):
    importlib.import_module(name)

gc.collect()
gc.freeze()  # a collection in a child would copy the pages that it shares with this process
