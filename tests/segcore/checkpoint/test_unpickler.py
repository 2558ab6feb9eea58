"""Pickled checkpoints: arrays and plain containers come through, everything else is refused."""

import os
import pickle
import struct
from collections import Counter, OrderedDict
from functools import partial

import numpy as np
import pytest
import torch

from segcore.checkpoint.reading import reading
from segcore.checkpoint.unpickler import RestrictedUnpickler
from segcore.errors import CheckpointError, UnsafeCheckpointError

DTYPES = ["?", "u1", "i8", "f2", "<f4", ">f4", ">i2", "f8", "c8"]

# A protocol 2 pickle as Python 2 and Caffe2 wrote it: {"blobs": {"conv1_w": [1, 2] in float32}}.
PYTHON_2_PICKLE = (
    b"\x80\x02}q\x00U\x05blobsq\x01}q\x02U\x07conv1_wq\x03"
    b"cnumpy.core.multiarray\n_reconstruct\nq\x04cnumpy\nndarray\nq\x05"
    b"K\x00\x85q\x06U\x01bq\x07\x87q\x08Rq\x09(K\x01K\x02\x85q\x0acnumpy\ndtype\nq\x0b"
    b"U\x02f4q\x0cK\x00K\x01\x87q\x0dRq\x0e(K\x03U\x01<q\x0fNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
    b"K\x00tq\x10b\x89U\x08" + struct.pack("<2f", 1, 2) + b"q\x11tq\x12bss."
)


def load_pickle(path):
    with reading(path), open(path, "rb") as file:
        return RestrictedUnpickler(file).load()


def write(path, data, protocol=pickle.HIGHEST_PROTOCOL):
    path.write_bytes(data if isinstance(data, bytes) else pickle.dumps(data, protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_come_through(tmp_path, dtype, protocol):
    values = np.arange(24).reshape(2, 3, 4)
    arrays = {
        "contiguous": values.astype(dtype),
        "fortran": np.asfortranarray(values.astype(dtype)),
        "transposed": values.astype(dtype).transpose(1, 0, 2),
        "empty": np.zeros((0, 3), dtype),
        "no_axis": np.array(1, dtype),
        "scalar": values.astype(dtype)[0, 0, 1],
    }
    loaded = load_pickle(write(tmp_path / "arrays.pkl", arrays, protocol))
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        # NumPy itself makes some big-endian arrays native.
        assert loaded[name].dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(loaded[name], array)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_containers_come_through(tmp_path, protocol):
    state = OrderedDict(a=[1, (2.5, None, True)], b={"text": b"\xff", 3: {1, 2}, 4: frozenset([5])})
    state._metadata = OrderedDict({"": {"version": 2}})
    loaded = load_pickle(write(tmp_path / "plain.pkl", state, protocol))
    assert loaded == state
    assert loaded._metadata == state._metadata


def test_numpy_1_module_paths(tmp_path):
    data = pickle.dumps(np.arange(3.0), protocol=2).replace(b"numpy._core.", b"numpy.core.")
    np.testing.assert_array_equal(load_pickle(write(tmp_path / "old.pkl", data)), np.arange(3.0))


def test_python_2_pickle(tmp_path):
    loaded = load_pickle(write(tmp_path / "R-50.pkl", PYTHON_2_PICKLE))
    np.testing.assert_array_equal(loaded["blobs"]["conv1_w"], np.float32([1, 2]))


class Call:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def malicious(mark):
    command = f"touch {mark}"
    return {
        "os.system": Call(os.system, command),
        "eval": Call(eval, f"open({str(mark)!r}, 'w')"),
        "getattr": Call(getattr, "text", "upper"),
        "import": Call(__import__, "os"),
        "open": Call(open, str(mark), "w"),
        "partial": partial(os.system, command),
        "numpy function": Call(np.save, str(mark), np.ones(1)),
        "numpy class": Call(np.memmap, str(mark), "u1", "w+", 0, (1,)),
        "ndarray call": Call(np.ndarray, (1,), "O"),
        "torch tensor": torch.ones(2),
        "class": Counter("abc"),
        "object array": np.array([Call(os.system, command)], dtype=object),
        "plain object array": np.array([{}, "text"], dtype=object),
        "text array": np.array(["text"]),
        "record array": np.zeros(2, dtype=[("a", "i4")]),
    }


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("trick", malicious("x"))
def test_everything_else_is_refused(tmp_path, trick, protocol):
    mark = tmp_path / "executed"
    path = write(tmp_path / "evil.pkl", {"model": malicious(mark)[trick]}, protocol)
    with pytest.raises(UnsafeCheckpointError, match=r"evil\.pkl is refused"):
        load_pickle(path)
    assert not mark.exists()


def test_the_malicious_files_do_execute_without_protection(tmp_path):
    """So that the tests above cannot pass because their files are harmless."""
    for trick in ("os.system", "eval", "open", "numpy function", "numpy class"):
        mark = tmp_path / f"{trick}.npy"
        pickle.loads(pickle.dumps(malicious(mark)[trick]))
        assert mark.exists(), trick


def dtype_state(code, flags):
    """Opcodes that build a dtype and set its state: with flags 0 an object array seems plain."""
    return (
        b"cnumpy\ndtype\n(X" + struct.pack("<I", len(code)) + code + b"\x89\x88tR"
        b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK" + bytes([flags]) + b"tb"
    )


def array_opcodes(dtype, shape, data):
    numbers = b"".join(b"J" + struct.pack("<i", n) for n in shape)
    return (
        b"\x80\x03cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"
        b"(K\x01(" + numbers + b"t" + dtype + b"\x89C" + bytes([len(data)]) + data + b"tb."
    )


def test_hand_written_array_is_valid(tmp_path):
    data = array_opcodes(dtype_state(b"u1", 0), (2, 2), b"abcd")
    array = load_pickle(write(tmp_path / "array.pkl", data))
    assert array.tolist() == [[97, 98], [99, 100]]


@pytest.mark.parametrize(
    ("dtype", "shape", "data"),
    [
        (dtype_state(b"O8", 0), (1,), b"\x41" * 8),  # a pointer made of bytes
        (dtype_state(b"u1", 63), (1,), b"\x41"),  # numbers with the flags of objects
        (b"X\x02\x00\x00\x00u1", (1,), b"a"),  # a text for a dtype
    ],
)
def test_crafted_dtypes_are_refused(tmp_path, dtype, shape, data):
    path = write(tmp_path / "crafted.pkl", array_opcodes(dtype, shape, data))
    with pytest.raises(UnsafeCheckpointError, match=r"crafted\.pkl"):
        load_pickle(path)


@pytest.mark.parametrize("shape", [(-1, -4), (2**31 - 1,) * 5, (5,), ()])
def test_shapes_that_disagree_with_the_data_are_errors(tmp_path, shape):
    path = write(tmp_path / "shape.pkl", array_opcodes(dtype_state(b"u1", 0), shape, b"abcd"))
    with pytest.raises(ValueError, match=r"shape\.pkl.*bytes for an array"):
        load_pickle(path)


def test_admitted_functions_cannot_be_altered(tmp_path):
    path = write(tmp_path / "alter.pkl", b"\x80\x03c_codecs\nencode\n}X\x01\x00\x00\x00aK\x01sb.")
    with pytest.raises(UnsafeCheckpointError, match="alters a function"):
        load_pickle(path)
    path = write(tmp_path / "class.pkl", b"\x80\x03ccollections\nOrderedDict\nN}Vx\nK\x01s\x86b.")
    with pytest.raises(ValueError, match=r"class\.pkl"):
        load_pickle(path)
    assert not hasattr(OrderedDict, "x")


@pytest.mark.parametrize("data", [b"", b"hello" * 20, pickle.dumps([1, 2, 3])[:-3]])
def test_damaged_files_are_errors(tmp_path, data):
    with pytest.raises(ValueError, match=r"damaged\.pkl is damaged or no checkpoint"):
        load_pickle(write(tmp_path / "damaged.pkl", data))


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.pkl: cannot be read: No such file"):
        load_pickle(tmp_path / "none.pkl")
