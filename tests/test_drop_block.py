import itertools
import math
import re

import keras
import numpy as np
import pytest
from backend import compiled_calls, multiplier, to_numpy, train
from keras import ops
from keras.optimizers.schedules import PiecewiseConstantDecay
from oracle import block_words

from keras_dropouts import DropBlock1D, DropBlock2D, DropBlock3D
from keras_dropouts.random.bits import rare_bits
from keras_dropouts.random.keys import key_of
from keras_dropouts.random.state import RandomState

SIGMAS = 4.5
MAPS = [(7, 7), (14, 14), (28, 14), (16, 8), (10, 6), (5, 11)]
BLOCKS = [3, 4, 7, (3, 2)]
cases = pytest.mark.parametrize(("size", "block"), list(itertools.product(MAPS, BLOCKS)))
flags = pytest.mark.parametrize("exact", [False, True], ids=["paper", "exact"])


def clamped(size, block):
    return [min(n, b) for n, b in zip(size, np.broadcast_to(block, len(size)), strict=True)]


def covering(size, block):
    """How many valid seeds reach each position, counted one seed at a time."""
    blocks = clamped(size, block)
    count = np.zeros(size)
    for corner in np.ndindex(*(n - b + 1 for n, b in zip(size, blocks, strict=True))):
        count[tuple(slice(i, i + b) for i, b in zip(corner, blocks, strict=True))] += 1
    return count


def gamma_of(rate, size, block, exact):
    if exact:
        # Bisection, where the layer uses Newton's method on a logarithm.
        count, low, high = covering(size, block), 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if (1 - (1 - middle) ** count).mean() < rate else (low, middle)
        return low
    return rate * math.prod(n / (b * (n - b + 1)) for n, b in zip(size, clamped(size, block), strict=True))


def expected_share(rate, size, block, exact):
    return (1 - (1 - gamma_of(rate, size, block, exact)) ** covering(size, block)).mean()


def seeds(seed, call, shape, probability):
    """Where blocks start in feature maps of `shape`, channels last: a bit for each, from the definition."""
    samples, *space, channels = shape
    bytes_ = -(-channels // 4)
    words = block_words(seed, call, samples, math.prod(space) * bytes_).astype("int64")
    bits = words + 2**31 < probability * 2**32
    return bits.reshape(samples, *space, 4 * bytes_)[..., :channels]


def drop_block(started, size, block):
    """Ones, but zeros where a block lies, one block at a time; over the share of ones."""
    keep = np.ones((len(started), *size, started.shape[-1]))
    for sample, *corner, channel in np.argwhere(started):
        region = tuple(slice(i, i + b) for i, b in zip(corner, block, strict=True))
        keep[(sample, *region, channel)] = 0
    return keep * keep.size / max(keep.sum(), 1)


def masks(size, block, rate, exact, samples=40, channels=50, **kwargs):
    layer = DropBlock2D(rate, block, exact_rate=exact, data_format="channels_last", seed=11, **kwargs)
    return multiplier(layer, (samples, *size, channels)) == 0


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("per_channel", [True, False])
@flags
@pytest.mark.parametrize(
    ("layer", "size", "block"),
    [
        (DropBlock1D, (11,), 4),
        (DropBlock2D, (10, 6), (3, 2)),
        (DropBlock2D, (5, 11), 7),
        (DropBlock2D, (16, 8), 5),
        (DropBlock3D, (4, 5, 6), (2, 3, 9)),
    ],
)
def test_the_oracle_drops_the_same(layer, size, block, exact, per_channel, data_format):
    samples, channels = 3, 6
    blocks = clamped(size, block)
    gamma = gamma_of(0.3, size, block, exact)
    valid = [n - b + 1 for n, b in zip(size, blocks, strict=True)]
    started = seeds(5, 0, (samples, *valid, channels if per_channel else 1), gamma)
    if data_format == "channels_first" and per_channel:
        # The counter runs over the channels first: the maps differ, their law does not.
        words = 2 * math.prod(valid)
        flat = seeds(5, 0, (samples, words // 2 * 2, 4), gamma).reshape(samples, 2, *valid, 4)
        started = np.moveaxis(flat, 1, -2).reshape(samples, *valid, 8)[..., :channels]
    expected = np.broadcast_to(drop_block(started, size, blocks), (samples, *size, channels))
    if data_format == "channels_first":
        expected = np.moveaxis(expected, -1, 1)
    assert 0 < (expected == 0).mean() < 1
    made = layer(0.3, block, per_channel=per_channel, exact_rate=exact, data_format=data_format, seed=5)
    np.testing.assert_allclose(multiplier(made, expected.shape), expected, rtol=1e-6)


@cases
def test_the_dropped_share_and_set(size, block):
    blocks = clamped(size, block)
    for exact, rate in itertools.product([False, True], [0.1, 0.5]):
        dropped = masks(size, block, rate, exact)
        # Maps are independent, their positions are not.
        share = dropped.mean((1, 2)).ravel()
        expected = rate if exact else expected_share(rate, size, block, exact)
        assert abs(share.mean() - expected) < SIGMAS * share.std() / np.sqrt(share.size)
        assert dropped.any((0, 3)).all()
        # A union of whole blocks: those that fit into what is dropped cover it.
        few = dropped[:8, ..., :20]
        whole = np.lib.stride_tricks.sliding_window_view(few, blocks, (1, 2)).all((-2, -1))
        np.testing.assert_array_equal(drop_block(whole, size, blocks) == 0, few)


@pytest.mark.parametrize("layer", [DropBlock1D, DropBlock2D, DropBlock3D])
def test_the_shares_that_help_tells(layer):
    low, high, size, block = re.search(
        r"(\S+) for 0\.1 and (\S+) for 0\.5, where a map\s+has (.+) positions and a block (.+?)\.", layer.__doc__
    ).groups()
    size, block = ([int(n) for n in words.split(" x ")] for words in (size, block))
    assert len(size) == len(block) == layer.dimensions
    for rate, share in [(0.1, low), (0.5, high)]:
        assert f"{expected_share(rate, size, block, False):.{len(share) - 2}f}" == share


def test_both_shares_at_the_papers_size():
    assert abs(expected_share(0.1, (14, 14), 7, False) - 0.093) < 5e-4
    assert abs(expected_share(0.5, (14, 14), 7, False) - 0.358) < 5e-4
    for rate in (1e-4, 0.1, 0.5, 0.9, 0.999):
        gamma = gamma_of(rate, (14, 14), 7, True)
        assert abs((1 - (1 - gamma) ** covering((14, 14), 7)).mean() - rate) < 1e-9


@flags
def test_a_block_of_one_is_dropout(exact):
    dropped = masks((10, 6), 1, 0.3, exact, channels=200)
    assert abs(dropped.mean() - 0.3) < SIGMAS * np.sqrt(0.21 / dropped.size)
    for axis in range(4):
        one, other = (np.delete(dropped, i, axis).ravel() for i in (0, -1))
        assert abs(np.corrcoef(one, other)[0, 1]) < SIGMAS / np.sqrt(one.size)


@flags
@pytest.mark.parametrize("block", [(10, 6), 10, 10**6])
def test_a_block_of_the_whole_map_is_spatial_dropout(exact, block):
    dropped = masks((10, 6), block, 0.3, exact, channels=201)
    assert (dropped == dropped[:, :1, :1]).all()
    maps = dropped[:, 0, 0]
    assert abs(maps.mean() - 0.3) < SIGMAS * np.sqrt(0.21 / maps.size)
    for axis in range(2):
        one, other = (np.delete(maps, i, axis).ravel() for i in (0, -1))
        assert abs(np.corrcoef(one, other)[0, 1]) < SIGMAS / np.sqrt(one.size)


def test_one_mask_for_all_channels():
    shared = masks((10, 6), 3, 0.3, False, samples=20, channels=5, per_channel=False)
    assert (shared == shared[..., :1]).all()
    assert (shared != shared[:1]).any()
    own = masks((10, 6), 3, 0.3, False, samples=20, channels=5)
    assert (own != own[..., :1]).any()


@pytest.mark.parametrize("probability", [2e-6, 6e-5, 0.0026, 0.5, 0.999])
def test_rare_bits_are_exact_and_independent(probability):
    key = key_of(RandomState(3, 0.0).next())
    drawn = ops.convert_to_numpy(rare_bits(key, (8, 250_000), ops.convert_to_tensor(probability, "float32")))
    bits = np.stack([np.asarray(drawn) >> i & 1 for i in range(4)]).astype(bool)
    n = bits[0].size
    # Counts of the rarest are Poisson's, with a longer tail than the normal's: half a count of grace, and 4.5 sigma.
    assert abs(bits.sum() - 4 * n * probability) < SIGMAS * np.sqrt(4 * n * probability * (1 - probability)) + 0.5
    for one, other in itertools.combinations(bits, 2):
        both = probability**2
        assert abs((one & other).sum() - n * both) < SIGMAS * np.sqrt(n * both * (1 - both)) + 1


@flags
def test_everything_dropped_gives_zeros(exact, policy):
    x = np.ones((2, 6, 5, 3), "float32")
    assert (train(DropBlock2D(1.0, 3, exact_rate=exact, dtype=policy, seed=1), x) == 0).all()
    # One sample of one map, and rates that drop all of it now and then: never NaN.
    layer = DropBlock2D(0.9, 7, exact_rate=exact, dtype=policy, seed=1)
    outputs = [train(layer, x[:1, ..., :1]) for _ in range(20)]
    assert np.isfinite(outputs).all()
    assert any((y == 0).all() for y in outputs)


def test_large_maps_do_not_overflow_narrow_types():
    y = multiplier(DropBlock2D(0.1, 7, dtype="float16", seed=1, data_format="channels_last"), (2, 200, 190, 2))
    assert np.isin(y, [0, y.max()]).all()
    assert abs(y.max() - y.size / np.count_nonzero(y)) < 1e-3


@flags
def test_a_schedule_of_rates(exact):
    schedule = PiecewiseConstantDecay([0, 1], [0.0, 0.5, 1.0])
    kwargs = {"exact_rate": exact, "data_format": "channels_last", "seed": 1}
    x = np.ones((40, 14, 14, 20), "float32")
    ramped = DropBlock2D(schedule, 7, **kwargs)
    none, half, full = compiled_calls(ramped, [x, x, x])
    assert (none == 1).all()
    assert (full == 0).all()
    share = (half == 0).mean((1, 2))
    expected = 0.5 if exact else expected_share(0.5, (14, 14), 7, False)
    assert abs(share.mean() - expected) < SIGMAS * share.std() / np.sqrt(share.size)
    twin = DropBlock2D(0.5, 7, **kwargs)
    train(twin, x)
    np.testing.assert_array_equal(train(twin, x), half)


@flags
def test_maps_of_unknown_size(exact):
    kwargs = {"exact_rate": exact, "data_format": "channels_last", "seed": 2}
    inputs = [np.ones(shape, "float32") for shape in [(4, 5, 11, 3), (2, 16, 8, 3), (3, 3, 30, 3)]]
    layer = DropBlock2D(0.3, (4, 100), **kwargs)
    eager = [train(layer, x) for x in inputs]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        for jit_compile in (False, True):
            dynamic = DropBlock2D(0.3, (4, 100), **kwargs)
            signature = [tf.TensorSpec((None, None, None, 3))]
            call = tf.function(lambda x, f=dynamic: f(x, training=True), signature, jit_compile=jit_compile)
            for x, expected in zip(inputs, eager, strict=True):
                np.testing.assert_array_equal(to_numpy(call(x)), expected)
    model = keras.Sequential([keras.Input((None, None, 3)), DropBlock2D(0.3, (4, 100), **kwargs)])
    model.add(keras.layers.GlobalAveragePooling2D())
    model.compile("sgd", "mse")
    for x in inputs:
        assert np.isfinite(model.train_on_batch(x, np.ones((len(x), 3), "float32")))


@pytest.mark.parametrize("block_size", [0, -1, 2.0, True, "3", None, (3,), (3, 3, 3), (3, 0), (3, None)])
def test_a_bad_block_size_is_refused(block_size):
    with pytest.raises(ValueError, match=r"(?s)`block_size` must be a positive integer.*Received: block_size="):
        DropBlock2D(0.1, block_size)


@pytest.mark.parametrize("name", ["per_channel", "exact_rate"])
def test_a_bad_flag_is_refused(name):
    with pytest.raises(ValueError, match=rf"`{name}` must be True or False. Received: {name}=1"):
        DropBlock2D(0.1, 3, **{name: 1})


def test_config_keeps_the_blocks():
    layer = DropBlock3D(0.2, [2, np.int64(3), 4], per_channel=False, exact_rate=True, data_format="channels_first")
    twin = DropBlock3D.from_config(layer.get_config())
    assert (twin.block_size, twin.per_channel, twin.exact_rate) == ((2, 3, 4), False, True)
    assert twin.data_format == "channels_first"
