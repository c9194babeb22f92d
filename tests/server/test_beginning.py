"""The beginning of a process."""

import gc
import subprocess
import sys
import time

import pytest

from server.beginning import collector_paused, seconds_since_start


def test_the_process_began_before_its_first_line_of_python():
    started = time.monotonic()
    program = "from server.beginning import seconds_since_start; print(seconds_since_start())"
    found = float(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout)
    assert 0 <= found <= time.monotonic() - started + 0.1
    assert seconds_since_start() > 0


def test_nothing_is_collected_in_the_block_and_everything_behind_it():
    try:
        with collector_paused():
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


def test_an_error_turns_the_collector_on_again():
    with pytest.raises(ValueError, match="broken"), collector_paused():
        raise ValueError("broken")
    assert gc.isenabled()
