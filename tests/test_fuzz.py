"""A sample of `benchmarks.fuzz`: damaged folders, tokens and questions end in a result or an InputError."""

import pytest

from benchmarks.fuzz import KINDS, fuzz


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_input_ends_in_no_other_exception(kind, untyped):
    fuzz(kind, 12 if kind == "folders" else 100)
