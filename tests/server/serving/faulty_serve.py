"""`tolbooth`, whose engine reads rows through faults: `python -m tests.server.serving.faulty_serve PLAN serve ...`.

The engine's process is also started again with hardly a delay.
"""

import functools
import sys

from server.cli.app import main
from server.process import client

WORKER = (sys.executable, "-P", "-m", "tests.server.serving.faulty_worker")

if __name__ == "__main__":
    client.EngineClient = functools.partial(
        client.EngineClient,
        command=(*WORKER, sys.argv[1]),
        backoff=client.Backoff(first=0.01, longest=0.01),
    )
    sys.exit(main(sys.argv[2:]))
