"""SMPL-H pickles: what every Python, NumPy, scipy and chumpy writes is read, nothing a file names is run."""

import os
import pickle
import struct

import numpy as np
import pytest
from scipy import sparse

from spectral_jax.bodies import smplh_pickle
from spectral_jax.bodies.smplh_pickle import load

NUMBERS = np.arange(24, dtype=np.float64).reshape(2, 3, 4) / 7
MATRIX = np.array([[0, 1.5, 0, 2], [0, 0, 0, 0], [-3, 0, 0, 0.25]])
FORMATS = ("csc", "csr", "coo")


# Python 2 by hand: protocol 2, bytes in a str.


def text2(text):
    return b"U" + bytes([len(text)]) + text.encode()


def tuple2(*items):
    return b"(" + b"".join(items) + b"t"


def integer2(number):
    return b"J" + struct.pack("<i", number)


def shape2(shape):
    return tuple2(*map(integer2, shape))


def dtype2(code, order="<"):
    state = tuple2(integer2(3), text2(order), b"NNN", integer2(-1), integer2(-1), integer2(0))
    return b"cnumpy\ndtype\n" + tuple2(text2(code), b"K\0K\1") + b"R" + state + b"b"


def array2(array, shape=None, code=None, order=None, content=None):
    """An array as Python 2 pickles it, in the byte order and with the state that are given."""
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    content = array.tobytes(order="A") if content is None else content
    state = tuple2(
        b"K\1",
        shape2(array.shape if shape is None else shape),
        dtype2(code or array.dtype.str[1:], order or array.dtype.str[0]),
        b"\x88" if fortran else b"\x89",
        b"T" + struct.pack("<i", len(content)) + content,
    )
    new = b"cnumpy.core.multiarray\n_reconstruct\n" + tuple2(b"cnumpy\nndarray\n", shape2([0]), text2("b"))
    return new + b"R" + state + b"b"


def dict2(**values):
    return b"}(" + b"".join(text2(name) + value for name, value in values.items()) + b"u"


def object2(module, name, **state):
    """An object of protocol 2 with this state."""
    return f"c{module}\n{name}\n".encode() + b")\x81" + dict2(**state) + b"b"


def old_object2(module, name, **state):
    """An object of protocol 0 or 1 with this state."""
    new = tuple2(f"c{module}\n{name}\n".encode(), b"c__builtin__\nobject\n", b"N")
    return b"ccopy_reg\n_reconstructor\n" + new + b"R" + dict2(**state) + b"b"


def sparse2(kind, build=object2, **changes):
    matrix = getattr(sparse, f"{kind}_matrix")(MATRIX)
    names = ("data", "row", "col") if kind == "coo" else ("data", "indices", "indptr")
    state = {name: array2(getattr(matrix, name)) for name in names} | {"_shape": shape2(MATRIX.shape)}
    return build(f"scipy.sparse.{kind}", f"{kind}_matrix", **state | changes)


def chumpy2(value, build=object2):
    dirty = b"c__builtin__\nset\n" + tuple2(b"]" + text2("x") + b"a") + b"R"
    return build("chumpy.ch", "Ch", x=value, _dirty_vars=dirty, _itr=b"N", _depends_on_deps=b"}")


def select2(source, indices, **state):
    return object2("chumpy.reordering", "Select", a=source, idxs=array2(indices), **state)


@pytest.fixture
def read(tmp_path):
    """Reads the array "x" of a pickle of its value by hand."""

    def read(value):
        path = tmp_path / "body.pkl"
        path.write_bytes(b"\x80\2" + dict2(x=value, other=b"N") + b".")
        return load(path, ["x", "absent"])["x"]

    return read


@pytest.mark.parametrize("code", ["<f8", ">f8", "<f4", ">f2", "|i1", "<i2", ">i4", "<i8", "|u1", ">u2", "<u4", "<u8"])
def test_arrays_of_python_2(read, code):
    array = (NUMBERS * 7).astype(code)
    for given in (array, np.asfortranarray(array)):
        found = read(array2(given))
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("renamed", [False, True])
def test_files_of_python_3(tmp_path, protocol, renamed):
    arrays = {
        "c": NUMBERS,
        "fortran": np.asfortranarray(NUMBERS),
        "turned": NUMBERS.transpose(1, 0, 2),
        "swapped": NUMBERS.astype(">f4"),
        **{kind: getattr(sparse, f"{kind}_matrix")(MATRIX) for kind in FORMATS},
        **{f"{kind} array": getattr(sparse, f"{kind}_array")(MATRIX) for kind in FORMATS},
    }
    others = {"style": "lbs", "joint2num": {"pelvis": 0, 3: np.int64(3)}, "set": {"x"}, "empty": b"", "list": [1, 2.0]}
    others |= {"texts": np.array(["a", None], object), "structured": np.zeros(2, "i4,f8"), "flags": np.ones(3, bool)}
    pickled = pickle.dumps(arrays | others, protocol)
    if renamed and protocol < 4:  # as an older NumPy and scipy name them; later protocols have lengths
        pickled = pickled.replace(b"numpy._core", b"numpy.core").replace(b"scipy.sparse._", b"scipy.sparse.")
    (tmp_path / "body.pkl").write_bytes(pickled)
    found = load(tmp_path / "body.pkl", [*arrays, "absent"])
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array.toarray() if sparse.issparse(array) else array)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("build", [object2, old_object2])
def test_sparse_matrices_of_python_2(read, kind, build):
    np.testing.assert_array_equal(read(sparse2(kind, build)), MATRIX)


def test_entries_of_one_place_add_up(read):
    rows, columns, data = np.array([0, 1, 0]), np.array([1, 0, 1]), np.array([1.0, 2, 3])
    found = read(sparse2("coo", row=array2(rows), col=array2(columns), data=array2(data), _shape=shape2([2, 2])))
    np.testing.assert_array_equal(found, [[0, 4], [2, 0]])


@pytest.mark.parametrize("build", [object2, old_object2])
def test_chumpy_arrays(read, build):
    np.testing.assert_array_equal(read(chumpy2(array2(NUMBERS), build)), NUMBERS)
    chosen = np.arange(24).reshape(2, 3, 4)[:, :, 1:3]
    source = chumpy2(array2(np.asfortranarray(NUMBERS)), build)
    np.testing.assert_array_equal(read(select2(source, chosen.ravel())), NUMBERS[:, :, 1:3].ravel())
    shaped = select2(source, chosen.ravel(), preferred_shape=shape2(chosen.shape))
    np.testing.assert_array_equal(read(shaped), NUMBERS[:, :, 1:3])
    np.testing.assert_array_equal(read(select2(shaped, np.array([5, 0]))), NUMBERS[:, :, 1:3].ravel()[[5, 0]])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"K\1", "x is a int, no array"),
        (array2(NUMBERS, code="O8"), "x has the dtype O8, and only integers and floats"),
        (array2(NUMBERS, code="V8"), "dtype V8"),
        (array2(NUMBERS, order="x"), "dtype f8"),
        (array2(NUMBERS, content=bytes(191)), r"191 bytes for \(2, 3, 4\) numbers of 8 bytes"),
        (array2(NUMBERS, code="f4"), r"192 bytes for \(2, 3, 4\) numbers of 4 bytes"),
        (array2(NUMBERS, shape=(-2, -3, 4)), "has a shape that is no short tuple"),
        (array2(NUMBERS, shape=(2, 3, 4, 1, 1)), "has a shape that is no short tuple"),
        (array2(NUMBERS).replace(b"cnumpy\ndtype\n", b"cnumpy\nndarray\n"), "has no dtype"),
        (array2(NUMBERS)[:-1] + b"0", "is a _reconstruct, no array"),
        (object2("chumpy.ch_ops", "add", a=array2(NUMBERS), b=array2(NUMBERS)), "is a other, no array"),
        (select2(array2(NUMBERS), np.array([24])), "indices that are not all integers from 0 to 23"),
        (select2(array2(NUMBERS), np.array([-1])), "indices that are not all integers from 0 to 23"),
        (select2(array2(NUMBERS), np.array([0.5])), "indices that are not all integers from 0 to 23"),
        (chumpy2(chumpy2(chumpy2(chumpy2(chumpy2(chumpy2(array2(NUMBERS))))))), "deeper than 6 levels"),
        (sparse2("csc", indices=array2(np.array([2, 0, 3, 2]))), "from 0 to 2"),
        (sparse2("csr", indices=array2(np.array([-1, 3, 0, 3]))), "from 0 to 3"),
        (sparse2("coo", row=array2(np.array([0, 0, 3, 2]))), "from 0 to 2"),
        (sparse2("coo", col=array2(np.array([0, 0]))), "4 entries in 4 rows and 2 columns"),
        (sparse2("csc", indptr=array2(np.array([0, 2, 1, 2, 4]))), "indptr of 5 that does not rise"),
        (sparse2("csc", indptr=array2(np.array([0, 4]))), "indptr of 2 that does not rise from 0 over 4 lines"),
        (sparse2("csc", indptr=array2(np.array([0, 1, 2, 2, 9]))), "from 0 to 4"),
        (sparse2("csr", data=array2(np.ones(3))), "3 entries in 4 rows and 4 columns"),
        (sparse2("csr", _shape=shape2([2**30, 2**30])), r"shape \(1073741824, 1073741824\)"),
        (sparse2("csr", _shape=b"N"), "has a shape that is no short tuple"),
        (b"P0\n", "refuses a persistent id"),
        (b"K\1Q", "refuses a persistent id"),
        (b"\x82\1", "refuses the extension code 1"),
        (b"}" + b"\x85" * 100, "is a tuple, no array"),
        (b"}" + b"(" * 100, "is damaged"),
        (b"p", "invalid literal"),
        (b"X\xff\xff\xff\x7fab", "is damaged"),
        (b"\x8e" + b"\xff" * 7 + b"\x7f", "is damaged"),
        (b"\x96" + b"\xff" * 5 + b"\0\0" + b"\0", "is damaged"),
    ],
)
def test_bad_values_are_refused(read, value, message):
    with pytest.raises(ValueError, match=rf"body.pkl: not a usable SMPL-H or SMPL body: .*{message}"):
        read(value)


SPRUNG = []


class Trap:
    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("place", ["x", "other"])
def test_nothing_is_run(tmp_path, protocol, place):
    path, mark = tmp_path / "body.pkl", tmp_path / "mark"
    for trap in (
        Trap(os.system, f"touch {mark}"),
        Trap(eval, f"open({str(mark)!r}, 'w')"),
        Trap(exec, f"open({str(mark)!r}, 'w')"),
        Trap(getattr, "text", "upper"),
        Trap(open, str(mark), "w"),
        Trap(SPRUNG.append, 1),
        Trap(__import__, "subprocess"),
        Trap(np.load, str(mark), "r", True),
        Trap(np.fromfile, str(mark)),
    ):
        path.write_bytes(pickle.dumps({place: trap}, protocol))
        with pytest.raises(
            ValueError, match=r"body.pkl: .* refuses to load the global [\w.]+ \(only arrays are read\)"
        ):
            load(path, ["x"])
    assert not mark.exists()
    assert not SPRUNG


@pytest.mark.parametrize(
    "payload",
    [
        b"cnumpy\ndtype\n" + dict2(__class__=b"N", __setstate__=b"N") + b"b",  # state for a class
        b"cnumpy\ndtype\n(N" + dict2(args=b"N") + b"tb",
        b"cnumpy\ndtype\n)\x81N" + dict2(args=b"N", __class__=b"cchumpy.ch\nCh\n") + b"\x86b",  # slots of an object
        b"]N" + dict2(append=b"N") + b"\x86b",
        b"cchumpy.ch\nCh\n)\x81(K\1e",
        b"cchumpy.ch\nCh\n)\x81(K\1K\1u",
        b"cchumpy.ch\nCh\n)}K\1K\1s\x92",
        b"K\1)\x81",
        b"K\1)R",
        b"(K\1cchumpy.ch\nCh\no",
    ],
)
def test_stubs_stay_stubs(read, payload):
    attributes = set(vars(smplh_pickle._Stub)), {name: set(vars(stub)) for name, stub in smplh_pickle._STUBS.items()}
    with pytest.raises(ValueError, match=r"body.pkl: not a usable SMPL-H or SMPL body"):
        read(payload)
    found = set(vars(smplh_pickle._Stub)), {name: set(vars(stub)) for name, stub in smplh_pickle._STUBS.items()}
    assert found == attributes


def test_globals_are_named_in_one_printable_line(read):
    with pytest.raises(ValueError, match=r"body.pkl: .* the global os.sys\?tem \?\[2J") as raised:
        read(text2("os") + b"\x8c\x0csys\ntem \x1b[2J" + b"\x93")
    assert str(raised.value).isprintable()


def test_files_that_are_no_dict_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "body.pkl"
    for content, message in (
        (b"", "is damaged \\(EOFError"),
        (b"N.", "holds a NoneType, not a dict"),
        (pickle.dumps([1, 2]), "holds a list, not a dict"),
        (pickle.dumps({"x": NUMBERS})[:-20], "is damaged"),
        (b"PK\3\4", "refuses a persistent id"),
        (b"\x80\xff.", "unsupported pickle protocol: 255"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"body.pkl: not a usable SMPL-H or SMPL body: {message}"):
            load(path, ["x"])
    with pytest.raises(ValueError, match=r"nowhere.pkl: .*FileNotFoundError"):
        load(tmp_path / "nowhere.pkl", ["x"])
    monkeypatch.setattr(smplh_pickle, "FILE_BYTES", 3)
    with pytest.raises(ValueError, match=r"body.pkl: .*has 3 bytes|body.pkl: .*unsupported"):
        load(path, ["x"])
    path.write_bytes(b"\x80\2N.")
    with pytest.raises(ValueError, match=r"body.pkl: .*has 4 bytes, the limit is 3"):
        load(path, ["x"])


def test_a_small_file_unfolds_to_little(read, monkeypatch):
    monkeypatch.setattr(smplh_pickle, "OPCODES", 1000)
    with pytest.raises(ValueError, match="has more than 1000 opcodes"):
        read(b"]" * 1001)
    read(b"r\xff\xff\xff\xff".join([array2(NUMBERS), b""]))  # a far place of the memo takes no memory
    shared = b")" + b"".join(b"q%c0h%ch%c\x86" % (i, i, i) for i in range(60))  # hash() would take 2**60 steps
    for key in (b"}" + shared + b"Ns", b"}(" + shared + b"Nu", b"(" + shared + b"Nd", b"(" + shared + b"\x91"):
        with pytest.raises(ValueError, match="has a tuple for a key"):
            read(key)
    with pytest.raises(ValueError, match="has a int for a key"):
        read(b"}\x8a\x0a" + b"\x01" * 10 + b"Ns")


def test_damaged_files_are_read_or_refused(tmp_path):
    path = tmp_path / "body.pkl"
    python2 = dict2(a=array2(NUMBERS), b=sparse2("csc"), c=select2(chumpy2(array2(NUMBERS)), np.arange(4)))
    wanted = {"a": NUMBERS, "b": sparse.csr_matrix(MATRIX)}
    files = [b"\x80\2" + python2 + b".", *(pickle.dumps(wanted, protocol) for protocol in (0, 2, 5))]
    rng = np.random.default_rng(0)
    found, errors = [], []
    for content in files:
        for _ in range(150):
            damaged = bytearray(content)
            for place in rng.integers(len(damaged), size=rng.integers(1, 4)):
                damaged[place] = rng.integers(256)
            path.write_bytes(damaged[: rng.integers(len(damaged))] if rng.random() < 0.1 else damaged)
            try:
                found += load(path, ["a", "b", "c"]).values()
            except ValueError as error:
                errors.append(str(error))
    assert len(errors) > 100
    assert len(found) > 100
    assert all(type(array) is np.ndarray for array in found)
    assert all(error.startswith(f"{path}: ") and error.isprintable() for error in errors)
