import os

import pytest


@pytest.fixture(scope="package", autouse=True)
def _no_waiting_for_the_disk():
    """No test here cuts the power, so none needs to wait for a disk that other work keeps busy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _handle: None)
        yield
