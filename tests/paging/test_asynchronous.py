"""How many reads a disk takes at a time without letting who asks wait."""

import os

import pytest

from paging.storage import asynchronous
from paging.storage.asynchronous import most_requests


@pytest.fixture
def devices(tmp_path, monkeypatch):
    monkeypatch.setattr(asynchronous, "_DEVICES", tmp_path)
    return tmp_path


@pytest.fixture
def descriptor(devices):
    descriptor = os.open(devices, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def number(descriptor):
    device = os.fstat(descriptor).st_dev
    return f"{os.major(device)}:{os.minor(device)}"


def set_requests(disk, text):
    (disk / "queue").mkdir(parents=True)
    (disk / "queue" / "nr_requests").write_text(text)


@pytest.mark.parametrize(("text", "most"), [("1023\n", 768), ("32\n", 24), ("1\n", 1), ("none", 192), ("0", 1)])
def test_three_quarters_of_what_the_disk_takes(devices, descriptor, number, text, most):
    set_requests(devices / number, text)
    assert most == most_requests(descriptor)


def test_a_partition_has_the_requests_of_its_disk(devices, descriptor, number):
    disk = devices / "disk"
    set_requests(disk, "64")
    (disk / "part").mkdir()
    (devices / number).symlink_to(disk / "part")
    assert 48 == most_requests(descriptor)


def test_of_what_is_no_disk_the_usual_is_assumed(descriptor):
    assert 192 == most_requests(descriptor)
