"""Flow as bytes."""

import numpy as np
import pytest

from kernels.flow.code import decode, encode


def test_codes_are_those_of_the_published_data() -> None:
    flow_px = np.float32([-25, -20, -0.1, 0, 0.1, 7.3, 20, 1e30])
    expected = [0, 0, 127, 128, 128, 174, 255, 255]  # rint(255 (clip(f) + 20) / 40), even at .5
    codes = encode(flow_px)
    assert codes.dtype == np.uint8
    assert codes.tolist() == expected


def test_every_code_survives_and_half_a_step_is_lost() -> None:
    codes = np.arange(256, dtype=np.uint8)
    assert decode(codes).dtype == np.float32
    np.testing.assert_array_equal(encode(decode(codes)), codes)
    flow_px = np.linspace(-20, 20, 9999, dtype=np.float32)
    assert np.abs(decode(encode(flow_px)) - flow_px).max() <= 20 / 255 + 1e-5
    # A mirror negates u, which on the code is 255 - q.
    np.testing.assert_allclose(decode(255 - codes), -decode(codes), atol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_code_is_invented(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        encode(np.float32([0, value]))
