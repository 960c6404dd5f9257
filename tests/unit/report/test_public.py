"""The package's public functions."""

import arrag.report


def test_every_public_name_is_a_function():
    assert all(callable(getattr(arrag.report, name)) for name in arrag.report.__all__)
