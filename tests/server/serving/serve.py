"""`tolbooth` for tests: `python -m tests.server.serving.serve [--faults PLAN] serve ...`.

It ends when its stdin does, so that it does not outlive the tests that began it. With faults its engine reads rows
through them, and is started again with hardly a delay.
"""

import functools
import os
import sys
import threading

from server.cli.app import main
from server.process import client

WORKER = (sys.executable, "-P", "-m", "tests.server.serving.faulty_worker")


def end_with_stdin():
    os.read(0, 1)
    os._exit(1)


def put_faults(plan):
    client.EngineClient = functools.partial(
        client.EngineClient, command=(*WORKER, plan), backoff=client.Backoff(first=0.01, longest=0.01)
    )


if __name__ == "__main__":
    threading.Thread(target=end_with_stdin, daemon=True).start()
    arguments = sys.argv[1:]
    if arguments[0] == "--faults":
        put_faults(arguments[1])
        arguments = arguments[2:]
    sys.exit(main(arguments))
