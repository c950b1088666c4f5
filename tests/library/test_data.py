"""The data sets: what is in them, that only the training part is looked at, and that the cache can only save time."""

import concurrent.futures
import random
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.datasets
from numpy.testing import assert_allclose, assert_array_equal

from course_lib import data

PARTS = ("train", "validation", "test")
SIZES = {
    data.breast_cancer: (341, 114, 114, 30, 2),
    data.digits: (1077, 360, 360, 64, 10),
    data.mnist1d: (3000, 1000, 1000, 40, 10),
}
ALL = pytest.mark.parametrize("load", SIZES, ids=lambda f: f.__name__)


@pytest.fixture(scope="session")
def generated(tmp_path_factory):
    """A cache that holds the one file."""
    folder = tmp_path_factory.mktemp("cache")
    data.mnist1d(cache=folder)
    return folder


@pytest.fixture(autouse=True)
def own_cache(generated, monkeypatch):
    """The default folder is the session's, never the user's."""
    monkeypatch.setattr(data, "user_cache_dir", lambda name: generated)


def same(a, b):
    return all(np.array_equal(p, q) for part in PARTS for p, q in zip(getattr(a, part), getattr(b, part), strict=True))


def raw(d, part):
    """x in its own units."""
    return np.asarray(getattr(d, part)[0]) * d.scale + d.mean


# what is in them


@ALL
def test_shapes_types_and_names(load):
    d = load()
    *sizes, columns, classes = SIZES[load]
    for part, n in zip(PARTS, sizes, strict=True):
        x, y = getattr(d, part)
        assert x.shape == (n, columns)
        assert x.dtype == jnp.zeros(()).dtype
        assert (y.shape, y.dtype) == ((n,), jnp.int32)
        assert set(np.unique(y)) == set(range(classes))
    assert len(d.feature_names) == len(set(d.feature_names)) == columns
    assert len(d.class_names) == classes
    assert d.mean.shape == d.scale.shape == (columns,)


def test_float32_where_that_is_the_default():
    with jax.enable_x64(False):
        d = data.digits()
    assert d.train[0].dtype == d.mean.dtype == d.scale.dtype == "float32"
    assert d.train[1].dtype == "int32"


@ALL
def test_the_training_part_and_no_other_has_mean_zero_and_scale_one(load):
    d = load()
    x = np.asarray(d.train[0])
    constant = np.ptp(x, axis=0) == 0
    assert_allclose(x.mean(0), 0, atol=1e-13)
    assert_allclose(x[:, ~constant].std(0), 1, rtol=1e-12)
    assert_array_equal(d.scale[constant], 1)
    for part in PARTS[1:]:
        assert np.all(np.isfinite(getattr(d, part)[0]))
        assert np.abs(np.mean(getattr(d, part)[0], axis=0)).max() > 1e-3


def test_a_constant_pixel_is_only_shifted():
    d = data.digits()
    assert d.feature_names[0] == "pixel_0_0"  # the corner is blank in every digit
    assert_array_equal(d.train[0][:, 0], 0)
    assert d.scale[0] == 1


@pytest.mark.parametrize("load", [data.breast_cancer, data.digits], ids=["breast_cancer", "digits"])
def test_the_three_parts_are_the_whole_set_once(load):
    x, y = {data.breast_cancer: sklearn.datasets.load_breast_cancer, data.digits: sklearn.datasets.load_digits}[load](
        return_X_y=True
    )
    y = 1 - y if load is data.breast_cancer else y
    d = load()
    ours = np.concatenate([np.column_stack([raw(d, part), getattr(d, part)[1]]) for part in PARTS])
    theirs = np.column_stack([x, y])
    # rounded, so that the round trip through the scale does not change the order
    order = [np.lexsort(np.round(rows, 6).T) for rows in (ours, theirs)]
    assert_allclose(ours[order[0]], theirs[order[1]], rtol=1e-9, atol=1e-9)


@ALL
def test_classes_have_their_share_in_every_part(load):
    """Stratified: within one example of the whole's share. MNIST-1D's own test part is not ours to stratify."""
    d = load()
    parts = PARTS[:2] if load is data.mnist1d else PARTS
    counts = np.array([np.bincount(getattr(d, part)[1]) for part in parts])
    sizes = counts.sum(1, keepdims=True)
    assert np.all(np.abs(counts - sizes * counts.sum(0) / sizes.sum()) <= 1)


@ALL
def test_a_seed_fixes_the_split_and_another_changes_it(load):
    assert same(load(seed=3), load(seed=3))
    assert not np.array_equal(raw(load(seed=3), "train"), raw(load(seed=4), "train"))


def test_malignant_is_one():
    """The textbook fact: malignant tumours are larger; 212 of the 569 are malignant."""
    d = data.breast_cancer(features=["mean radius"])
    x, y = (np.concatenate([np.asarray(getattr(d, part)[i]) for part in PARTS]) for i in (0, 1))
    assert d.class_names == ("benign", "malignant")
    assert y.sum() == 212
    assert x[y == 1].mean() > x[y == 0].mean()


def test_features_are_kept_in_the_order_given():
    whole, some = data.breast_cancer(), data.breast_cancer(features=["worst area", 1, np.int64(0)])
    assert some.feature_names == ("worst area", "mean texture", "mean radius")
    columns = [whole.feature_names.index(name) for name in some.feature_names]
    for part in PARTS:
        assert_array_equal(getattr(some, part)[0], getattr(whole, part)[0][:, columns])
        assert_array_equal(getattr(some, part)[1], getattr(whole, part)[1])


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (["mean radus"], "'mean radus'; near it: .*mean radius"),
        (["zzz"], "'zzz'; near it: mean radius, mean texture"),
        ([30], "from 0 to 29, got 30"),
        ([-1], "from 0 to 29, got -1"),
        ([], "at least one entry"),
        ("mean radius", "a list of names or numbers"),
    ],
    ids=str,
)
def test_features_that_do_not_exist(features, message):
    with pytest.raises(ValueError, match=message):
        data.breast_cancer(features=features)


# MNIST-1D and its cache


def test_mnist1d_is_what_its_package_makes(generated):
    from mnist1d.data import get_dataset_args, make_dataset

    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    theirs, d = make_dataset(get_dataset_args()), data.mnist1d(seed=5)
    np.random.set_state(numpy_state)  # noqa: NPY002
    random.setstate(python_state)
    assert_allclose(raw(d, "test"), theirs["x_test"], rtol=1e-9, atol=1e-12)
    assert_array_equal(d.test[1], theirs["y_test"])
    ours = np.concatenate([raw(d, "train"), raw(d, "validation")])
    assert_allclose(np.sort(ours, axis=0), np.sort(theirs["x"], axis=0), rtol=1e-9, atol=1e-12)


def fail(*_):
    raise AssertionError("generated although the file is there")


def small(*_):
    """In place of a generation that takes seconds: arrays of the right shapes, the values of no use."""
    rng = np.random.default_rng(0)
    y = np.arange(5000) % 10
    x = rng.normal(size=(5000, 40))
    return {"x": x[:4000], "y": y[:4000], "x_test": x[4000:], "y_test": y[4000:]}


def test_the_second_call_reads_the_file(generated, monkeypatch):
    monkeypatch.setattr(data, "_generate", fail)
    first = data.mnist1d(cache=generated)
    assert same(first, data.mnist1d(cache=str(generated)))
    assert same(first, data.mnist1d())


def test_generating_leaves_the_global_generators_alone(tmp_path, shapes_unchecked):
    """make_dataset seeds both; a student who seeded them must get the numbers they would have had.

    Unchecked, since beartype picks the item of a sequence that it looks at by Python's global generator.
    """
    np.random.seed(7)  # noqa: NPY002
    random.seed(7)
    expected = np.random.RandomState(7).rand(3), random.Random(7).random()
    data.mnist1d(cache=tmp_path)
    assert_array_equal(np.random.rand(3), expected[0])  # noqa: NPY002
    assert random.random() == expected[1]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda b: b"", id="empty"),
        pytest.param(lambda b: b"no zip at all", id="no zip"),
        pytest.param(lambda b: b[: len(b) // 2], id="cut short"),
        pytest.param(lambda b: b[:5000] + bytes(100) + b[5100:], id="flipped bytes"),
    ],
)
def test_a_damaged_file_is_named_and_made_again(damage, generated, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "_generate", small)
    data.mnist1d(cache=tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with pytest.warns(UserWarning, match=rf"{path.name} cannot be used .* generated again"):
        data.mnist1d(cache=tmp_path)
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [{"x": np.zeros(3)}, {k: np.zeros(3) for k in ("x", "y", "x_test", "y_test")}])
def test_a_sound_file_with_other_arrays_is_made_again(content, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "_generate", small)
    data.mnist1d(cache=tmp_path)
    (path,) = tmp_path.iterdir()
    np.savez(path, **content)
    with pytest.warns(UserWarning, match="generated again"):
        assert len(data.mnist1d(cache=tmp_path).train[0]) == 3000


def test_a_pickle_in_the_cache_is_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "_generate", small)
    data.mnist1d(cache=tmp_path)
    (path,) = tmp_path.iterdir()
    np.savez(path, x=np.array([object()]), y=0, x_test=0, y_test=0)
    with pytest.warns(UserWarning, match="allow_pickle=False"):
        data.mnist1d(cache=tmp_path)


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path, monkeypatch):
    """A file where the folder should be: that stops root too, unlike permissions."""
    monkeypatch.setattr(data, "_generate", small)
    (tmp_path / "file").write_text("")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        d = data.mnist1d(cache=tmp_path / "file" / "cache")
    assert len(d.train[0]) == 3000
    assert "generated but not kept" in str(caught[-1].message)


def test_a_write_that_fails_half_way_leaves_nothing(tmp_path, monkeypatch):
    def disk_full(file, **_):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(data, "_generate", small)
    monkeypatch.setattr(np, "savez", disk_full)
    with pytest.warns(UserWarning, match="not kept, since .* No space left"):
        data.mnist1d(cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_other_arguments_or_another_version_are_another_file(tmp_path, monkeypatch):
    import mnist1d

    monkeypatch.setattr(data, "_generate", small)
    data.mnist1d(cache=tmp_path)
    monkeypatch.setattr(data, "version", lambda name: "9.9")
    data.mnist1d(cache=tmp_path)
    arguments = mnist1d.get_dataset_args(as_dict=True)
    monkeypatch.setattr(mnist1d, "get_dataset_args", lambda as_dict: arguments | {"seed": 43})
    data.mnist1d(cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_many_readers_and_writers_at_once(tmp_path, monkeypatch):
    """Each call finds no file, or a whole one; a warning (an error here) would mean that it saw half."""
    monkeypatch.setattr(data, "_generate", small)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: data._cached(tmp_path), range(40)))
    assert all(np.array_equal(r["x"], results[0]["x"]) for r in results)
    assert len(list(tmp_path.iterdir())) == 1


def test_two_processes_at_once(tmp_path):
    """Both generate, both write, both succeed, in the folder that XDG_CACHE_HOME names."""
    code = "from course_lib.data import mnist1d; print(float(abs(mnist1d().train[0]).sum()))"
    environment = {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-W", "error", "-c", code]
    pair = [subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True) for _ in range(2)]
    (a, a_error), (b, b_error) = (process.communicate(timeout=120) for process in pair)
    assert a == b != "", a_error + b_error
    assert len(list((tmp_path / "beyond-the-gradient").iterdir())) == 1
