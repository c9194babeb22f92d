"""The engine's process, reading rows through faults: `python -m tests.server.serving.faulty_worker PLAN --fd N`."""

import sys

from server.engine.parts import open_table_storage
from server.engine.starting import start_engine
from server.process.worker import main
from tests.server.serving.faults import FaultFile, PlannedStorage


def make_engine(config, on_progress):
    faults = FaultFile(sys.argv[1])

    def open_storage(table, config):
        faults.wait_to_go_on()
        return PlannedStorage(open_table_storage(table, config), faults)

    engine = start_engine(config, on_progress, open_storage=open_storage)
    return engine, engine.info


if __name__ == "__main__":
    sys.exit(main(sys.argv[2:], make_engine))
