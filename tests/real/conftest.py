"""The real model, fetched once; every test here skips with the reason where that fails."""

import pytest

import workbench as wb
from workbench.errors import InputError
from workbench.models.fetch import fetch

NAME = "smollm2-135m-instruct"


@pytest.fixture(scope="session")
def folder():
    try:
        return fetch(NAME)
    except InputError as error:
        pytest.skip(f"the real model cannot be fetched here: {error}")


@pytest.fixture(scope="session")
def model(folder):
    return wb.load(NAME)
