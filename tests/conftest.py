"""What tests of several packages share."""

import os
from pathlib import Path

import pytest

SHARED_DATA = "KDQ_SHARED_DATA"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with CIFAR and published checkpoints; its tests are skipped where it is absent."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get(SHARED_DATA, beside))
    if not (folder / "cifar10").is_dir():
        pytest.skip(f"no real data in {folder}; set {SHARED_DATA} to a folder with cifar10/ and checkpoints/")
    return folder
