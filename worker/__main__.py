"""One worker: `python -P -m worker`. With -P, Python imports nothing from the folder in which it starts."""

import sys

from worker.celery_app import app

if __name__ == "__main__":  # the pool's children import this module, too
    app.worker_main(["--quiet", "worker", *sys.argv[1:]])
