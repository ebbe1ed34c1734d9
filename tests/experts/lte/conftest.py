"""The independent receiver as a fixture (test folders are no packages)."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def receiver() -> ModuleType:
    """Module ``receiver.py`` beside this file."""
    spec = importlib.util.spec_from_file_location("lte_test_receiver", Path(__file__).with_name("receiver.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
