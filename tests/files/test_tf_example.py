"""The fast reader of one array in a serialised tf.train.Example."""

import numpy as np
import pytest
from tensorflow_datasets.proto import tf_example_generated_pb2 as proto

from spectral_jax.files.tf_example import find_bytes


def example(**features):
    made = proto.Example()
    for name, value in features.items():
        if isinstance(value, bytes):
            made.features.feature[name].bytes_list.value.append(value)
        else:
            made.features.feature[name].int64_list.value.append(value)
    return made.SerializeToString()


@pytest.mark.parametrize("size", [0, 1, 127, 128, 20_000, 3_000_000])
def test_the_value_is_that_of_the_whole_parser(size):
    value = np.random.default_rng(size).bytes(size)
    record = example(frame=3, coefficients=value, identity=b"s001", vertices=b"")
    assert bytes(find_bytes(record, b"coefficients")) == value
    assert bytes(find_bytes(record, b"identity")) == b"s001"


def test_what_is_not_there_or_damaged_is_not_found():
    record = example(frame=3, coefficients=bytes(200))
    assert find_bytes(record, b"other") is None
    assert find_bytes(record, b"frame") is None  # no bytes
    assert find_bytes(b"", b"coefficients") is None
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(record)
        damaged[rng.integers(len(damaged))] = rng.integers(256)
        found = find_bytes(bytes(damaged[: rng.integers(1, len(damaged) + 1)]), b"coefficients")
        assert found is None or len(found) <= len(record)
