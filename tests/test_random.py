import keras
import moments
import numpy as np
import oracle
import pytest
from backend import BACKEND, FULLGRAPH, to_numpy, value_and_gradient
from keras import ops
from scipy import stats

import keras_dropouts as kd
from keras_dropouts import random
from keras_dropouts.random import bits
from keras_dropouts.random.backend import WORD
from keras_dropouts.random.state import RandomState, rate_of
from keras_dropouts.random.threefry import threefry2x32

# Random123's known answers for threefry2x32: counter, key, 13 rounds, 20 rounds.
KNOWN = [
    ("00000000 00000000", "00000000 00000000", "9d1c5ec6 8bd50731", "6b200159 99ba4efe"),
    ("ffffffff ffffffff", "ffffffff ffffffff", "fd36d048 2d17272c", "1cb996fc bb002be7"),
    ("243f6a88 85a308d3", "13198a2e 03707344", "ba3e4725 f27d669e", "c4923a9c 483df7a0"),
]


def words(text):
    return np.array([int(word, 16) for word in text.split()], "uint32")


def tensor(array):
    """32-bit integers, in the type that the backend's generator works in."""
    array = np.asarray(array, "uint32")
    return ops.convert_to_tensor(array.view("int32") if WORD == "int32" else array)


def key_of(seed, call, first_sample=0):
    return tensor([seed, call, first_sample])


def keep(seed, call, shape, rate, first_sample=0):
    mask = random.keep_mask(key_of(seed, call, first_sample), shape, ops.convert_to_tensor(rate, "float32"))
    return ops.convert_to_numpy(mask)


@pytest.mark.parametrize("counter, key, after_13, after_20", KNOWN)
def test_known_answers(counter, key, after_13, after_20):
    x = threefry2x32(tensor(words(key)), [tensor(words(counter)[i : i + 1]) for i in (0, 1)], 13, 20)
    assert [ops.convert_to_numpy(word).astype("uint32")[0] for word in x] == words(f"{after_13} {after_20}").tolist()
    for rounds, expected in ((13, after_13), (20, after_20)):
        x = oracle.threefry2x32(words(key), words(counter), rounds)
        assert [int(word) for word in x] == words(expected).tolist()


@pytest.mark.parametrize("shape", [(1,), (7,), (2, 1), (3, 2), (3, 5), (2, 3, 4, 5), (1, 1, 9), (0, 3), (2, 0)])
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_masks_are_the_oracles(shape, rate):
    for seed, call in ((0, 0), (2**31 + 5, 3), (2**32 - 1, 2**32 - 1)):
        np.testing.assert_array_equal(keep(seed, call, shape, rate), oracle.keep_mask(seed, call, shape, rate))


KERNELS = {
    "_keep": [[np.array(threshold, "int32")] for threshold in (-6554, 0, 1, 13107, 32768, 65535, 65536, 80000)],
    "_rare": [[np.array(probability, "float32")] for probability in (0, 1e-5, 1e-3, 0.3, 0.5, 1 - 2**-24, 1)],
    "_uniform": [[np.array(middle, "float32"), np.array(step, "float32")] for middle, step in ((0.1, 0.7), (1, 1e-6))],
    "_looked_up": [[np.random.default_rng(0).standard_normal(65536).astype("float32")]],
}


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("samples, blocks", [(5, 40001), (1, 1), (2, 0), (0, 2)])
def test_compiled_kernels_give_what_their_operations_do(name, samples, blocks, monkeypatch):
    kernel, looped = getattr(bits, name), []
    if BACKEND == "torch":
        loop = getattr(bits.numba_kernels, name)
        assert loop.py_func, "no loop that Numba compiles"
        monkeypatch.setattr(bits.numba_kernels, name, lambda *args: looped.append(loop(*args)))
    calls = 0
    for key in (key_of(1, 2), key_of(2**31 + 5, 2**32 - 1, 2**32 - 1)):
        for tensors in KERNELS[name]:
            args = (key, *map(ops.convert_to_tensor, tensors), samples, blocks)
            drawn, expected = (ops.convert_to_numpy(draw(*args)) for draw in (kernel, kernel.__wrapped__))
            assert drawn.dtype == expected.dtype
            np.testing.assert_array_equal(drawn, expected)
            calls += 1
    # What stands in for the operations did so.
    assert BACKEND != "torch" or len(looped) == calls


def test_rates_0_and_1_have_no_exceptions():
    # Each of the 65536 values of a draw comes up about 16 times.
    assert keep(1, 1, (8, 2**17), 0.0).all()
    assert not keep(1, 1, (8, 2**17), 1.0).any()


def test_uniforms_and_normals_are_the_oracles():
    shape = (3, 5, 7)
    draws = oracle.draws(11, 2, shape)
    uniform = ops.convert_to_numpy(random.uniform(key_of(11, 2), shape))
    np.testing.assert_array_equal(uniform, ((draws + 32768.5) / 65536).astype("float32"))
    wide = ops.convert_to_numpy(random.uniform(key_of(11, 2), shape, -3.0, 7.0))
    np.testing.assert_allclose(wide, 10 * (draws + 32768.5) / 65536 - 3, rtol=1e-6, atol=1e-6)
    normal = ops.convert_to_numpy(random.normal(key_of(11, 2), shape))
    np.testing.assert_allclose(normal, stats.norm.ppf((draws + 32768.5) / 65536), rtol=1e-4)


DRAWS = {
    "keep_mask": lambda key, shape: random.keep_mask(key, shape, 0.25),
    "uniform": random.uniform,
    "normal": random.normal,
}
every_draw = pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)


def test_a_key_is_that_of_a_layer():
    for seed, call in ((5, 0), (2**32 - 1, 2**31)):
        key, expected = random.key(seed, call), key_of(seed, call)
        assert key.dtype == expected.dtype
        np.testing.assert_array_equal(ops.convert_to_numpy(key), ops.convert_to_numpy(expected))
        x = np.ones((3, 50), "float32")
        layer = kd.Dropout(0.5, seed=seed)
        layer._random_state.write(calls=call)
        mask = ops.convert_to_numpy(random.keep_mask(key, (3, 50), 0.5))
        np.testing.assert_array_equal(to_numpy(layer(x, training=True)) > 0, mask)


@every_draw
def test_shapes_are_tuples_lists_and_what_keras_returns(draw):
    key = random.key(1)
    expected = ops.convert_to_numpy(draw(key, (3, 5)))
    for shape in ([3, 5], (np.int64(3), np.int32(5)), ops.zeros((3, 5)).shape, ops.shape(ops.zeros((3, 5)))):
        np.testing.assert_array_equal(ops.convert_to_numpy(draw(key, shape)), expected)
    assert tuple(draw(key, ()).shape) == ()
    # Each entry is a sample.
    one = ops.convert_to_numpy(draw(key, [9]))
    np.testing.assert_array_equal(one, ops.convert_to_numpy(draw(key, (9, 4)))[:, 0])
    assert one.dtype == expected.dtype


def test_rates_are_numbers_and_tensors():
    key, shape = random.key(3), (4, 100)
    for functions in (lambda rate: random.keep_mask(key, shape, rate), random.keep_scale, random.keep_probability):
        expected = ops.convert_to_numpy(functions(ops.convert_to_tensor(0.25, "float32")))
        rates = [0.25, np.float64(0.25), np.array(0.25), keras.Variable(0.25)]
        rates += [ops.convert_to_tensor(0.25, dtype) for dtype in ("float16", "bfloat16")]
        for rate in rates:
            np.testing.assert_array_equal(ops.convert_to_numpy(functions(rate)), expected)
    assert float(random.keep_scale(1)) == 65536 and float(random.keep_probability(0)) == 1


@every_draw
def test_compiled_draws_are_the_eager_ones(draw):
    def call(key, x):
        return draw(random.fold_in(key, 2), ops.shape(x))

    key, x = random.key(1), ops.zeros((3, 7))
    expected = ops.convert_to_numpy(call(key, x))
    if BACKEND == "tensorflow":
        import tensorflow as tf

        signature = [tf.TensorSpec((None,), key.dtype), tf.TensorSpec((None, None))]
        compiled = tf.function(call, input_signature=signature)
    elif BACKEND == "jax":
        import jax

        sizes = jax.ShapeDtypeStruct(jax.export.symbolic_shape("a, b"), "float32")
        np.testing.assert_array_equal(jax.export.export(jax.jit(call))(key, sizes).call(key, x), expected)
        compiled = jax.jit(call)
    else:
        import torch

        compiled = torch.compile(call, backend="eager", fullgraph=FULLGRAPH, dynamic=True)
    np.testing.assert_array_equal(ops.convert_to_numpy(compiled(key, x)), expected)


@every_draw
@pytest.mark.parametrize("shape", [3, None, (2, -1), (2.0, 3), (None, 3), (True, 3), "23", [[2], 3]], ids=repr)
def test_bad_shapes_are_refused(draw, shape):
    with pytest.raises(ValueError, match=r"(?s)`shape` must be .*Received: shape="):
        draw(random.key(1), shape)


@every_draw
def test_what_is_no_key_is_refused(draw):
    words = ops.cast(random.key(1), "float32")
    for key in (1, None, words, random.key(1)[:2], random.key(1)[None], keras.random.SeedGenerator(1)):
        for function in (lambda key: draw(key, (2, 3)), lambda key: random.fold_in(key, 1)):
            with pytest.raises(ValueError, match=r"(?s)`key` must be .*Received: key="):
                function(key)


@pytest.mark.parametrize(
    "rate", [-0.1, 1.1, float("nan"), np.float32(2), True, None, "0.5", [0.5], np.zeros(1)], ids=repr
)
def test_bad_rates_are_refused(rate):
    for function in (lambda rate: random.keep_mask(random.key(1), (2,), rate), random.keep_scale):
        with pytest.raises(ValueError, match=r"(?s)`rate` must be .*Received: rate="):
            function(rate)


@pytest.mark.parametrize("word", [-1, 2**32, 1.0, True, None])
def test_bad_words_are_refused(word):
    for name, function in (
        ("seed", random.key),
        ("call", lambda word: random.key(1, word)),
        ("index", lambda word: random.fold_in(random.key(1), word)),
    ):
        with pytest.raises(ValueError, match=rf"(?s)`{name}` must be .*Received: {name}="):
            function(word)


def test_masks_are_boolean():
    with pytest.raises(ValueError, match=r"(?s)`keep` must be .*Received: keep"):
        random.multiply_where(ops.ones((2, 3)), 1.0, ops.ones((2, 3)))


# PyTorch has another way for large tensors.
@pytest.mark.parametrize("samples", [10, 3000])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_dropped_is_0_in_values_and_gradients(samples, dtype):
    rng = np.random.default_rng(0)
    for shape in ((samples, 3), (samples, 1)):
        keep = rng.random(shape) < 0.5
        x, upstream = (np.where(keep, rng.integers(1, 9, (samples, 3)), np.inf).astype("float32") for _ in range(2))
        pair = value_and_gradient(
            lambda x, keep=keep: random.multiply_where(
                ops.convert_to_tensor(keep), ops.convert_to_tensor(1.5), ops.cast(x, dtype)
            ),
            x,
            upstream,
        )
        for result, before in zip(pair, (x, upstream), strict=True):
            np.testing.assert_array_equal(result, np.where(keep, 1.5 * before, 0))


@pytest.mark.parametrize("minval, maxval", [(-3e38, 3e38), (2e38, 3e38), (-1e-30, 1e-30), (1e6, 1e6)])
def test_uniforms_lie_between_any_bounds(minval, maxval):
    x = ops.convert_to_numpy(random.uniform(key_of(1, 2), (3, 1000), minval, maxval))
    assert np.float32(minval) <= x.min() and x.max() <= np.float32(maxval)
    assert minval == maxval or abs((x / maxval).std() - (1 - minval / maxval) / 12**0.5) < 0.03
    for bad in (1e39, np.inf, np.nan, True, "1", [0.0]):
        with pytest.raises(ValueError, match=r"(?s)`maxval` must be .*Received: maxval="):
            random.uniform(key_of(1, 2), (3, 2), 0.0, bad)


def test_a_scale_has_no_axes():
    class MaskAlone(kd.RandomLayer):
        def keep_mask(self, inputs, key, rate):
            return random.keep_mask(key, ops.shape(inputs), rate)

    with pytest.raises(ValueError, match="`scale` must be a number"):
        MaskAlone(0.5)(np.ones((2, 7), "float32"), training=True)


def test_normals_are_normal():
    z = ops.convert_to_numpy(random.normal(key_of(1, 1), (400, 1001))).ravel()
    assert abs(z.mean()) < 4.5 / np.sqrt(z.size)
    assert abs(z.var() - 1) < 4.5 * np.sqrt(2 / z.size)
    assert stats.kstest(z, "norm").pvalue > 1e-6


def test_every_normal_is_its_quantile():
    # Of so many draws, each of the 65536 values comes up, but for one chance in 10**23.
    draws = oracle.draws(1, 2, (8, 2**19)).ravel()
    z = ops.convert_to_numpy(random.normal(key_of(1, 2), (8, 2**19))).ravel()
    values, first = np.unique(draws, return_index=True)
    quantiles = stats.norm.ppf((values + 32768.5) / 65536)
    assert len(values) == 65536
    z = z[first]
    np.testing.assert_allclose(z, quantiles / quantiles.std(), rtol=2e-7)
    assert (np.diff(z) > 0).all()
    np.testing.assert_array_equal(z, -z[::-1])
    assert abs(np.mean(z.astype("float64") ** 2) - 1) < 2e-6


def test_every_rate_is_within_2_to_the_minus_17():
    rates = np.array([0, 1e-6, 2**-17, 0.001, 1 / 3, 0.5, 0.999, 1 - 2**-17, 1], "float32")
    kept = [to_numpy(random.keep_probability(ops.convert_to_tensor(rate))) for rate in rates]
    assert np.abs(1 - np.array(kept) - rates.astype("float64")).max() <= 2**-17
    assert (kept[0], kept[-1]) == (1, 0)


# What follows tests a stream's parts against each other. With a mask m of n entries, m1 and m2 independent, the
# correlation r of the two is normal with variance 1 / n.


def scores(masks):
    """The correlation times sqrt(n) of each pair of rows."""
    m = masks.reshape(len(masks), -1).astype("float64")
    m -= m.mean(1, keepdims=True)
    m /= np.sqrt((m**2).mean(1, keepdims=True))
    r = m @ m.T / np.sqrt(m.shape[1])
    return r[np.triu_indices(len(m), 1)]


def assert_independent(masks):
    z = scores(masks)
    # The largest of k normal deviates, and the sum of their squares.
    assert 2 * stats.norm.sf(np.abs(z).max()) * z.size > 1e-4
    assert 1e-4 < stats.chi2.cdf((z**2).sum(), z.size) < 1 - 1e-4


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_streams_are_independent(rate):
    shape = (16, 257)
    assert_independent(np.stack([keep(seed, 0, shape, rate) for seed in range(256)]))
    assert_independent(np.stack([keep(5, call, shape, rate) for call in range(256)]))
    keys = [key_of(5, 0), *(random.fold_in(key_of(5, 0), replica) for replica in range(1, 8))]
    probability = ops.convert_to_tensor(rate, "float32")
    masks = [random.keep_mask(key, shape, probability) for key in keys]
    assert_independent(np.stack([ops.convert_to_numpy(mask) for mask in masks]))
    diagonal = [keep(seed, call, shape, rate) for seed in range(12) for call in range(12)]
    assert_independent(np.stack(diagonal))


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_samples_and_neighbours_are_independent(rate):
    mask = keep(3, 0, (256, 4099), rate)
    assert_independent(mask)
    # Many samples: with few, the products of two rare drops are far from normal.
    assert_independent(keep(3, 1, (16384, 67), rate).T)
    flat = mask.astype("float64") - mask.mean()
    lags = [1, 2, 3, 4, 7, 8, 16, 1024, 1025, 2050, 3074]
    z = [(flat[:, lag:] * flat[:, :-lag]).mean() / flat.var() * np.sqrt(flat[:, lag:].size) for lag in lags]
    assert np.abs(z).max() < 4.5


# Eight elements share a block of the generator. `benchmarks/moments.py` asks more of more of them.


def test_what_is_delivered_is_as_random_as_the_words():
    results = moments.of_numbers(moments.drawn_numbers, 2e6) + moments.of_bits(moments.drawn_mask, 2e6)
    for rate in (0.005, 0.3, 0.999):
        results += moments.of_masks(moments.drawn_mask, rate, 2e6)
    assert len(results) > 50
    assert [result for result in results if result.p < 1e-4] == []


def mixtures(seed, call):
    """Blocks whose second words are made of shifts and sums, in xor, of the first."""
    blocks = oracle.block_words(seed, call, moments.SAMPLES, moments.BLOCKS)
    for i in (0, 1):
        word, other = blocks[..., i], blocks[..., 1 - i]
        blocks[..., 2 + i] = word << 8 ^ word >> 8 ^ other
    return blocks.view("<i2")


def three_rounds_on(seed, call):
    """Blocks whose second words are the first ones, three rounds on."""
    return oracle.block_words(seed, call, moments.SAMPLES, moments.BLOCKS, rounds=(13, 16)).view("<i2")


@pytest.mark.parametrize("draw", [mixtures, three_rounds_on])
def test_words_that_hang_together_are_seen(draw):
    assert min(result.p for result in moments.of_numbers(draw, 1e6)) < 1e-9


def test_sums_are_binomial():
    shape, rate = (64, 1023), 0.1
    dropped = [(~keep(seed, call, shape, rate)).sum() for seed in range(64) for call in range(4)]
    n, p = np.prod(shape), round(rate * 65536) / 65536
    z = (np.array(dropped) - n * p) / np.sqrt(n * p * (1 - p))
    assert stats.kstest(z, "norm").pvalue > 1e-4


def test_counters_do_not_run_into_each_other():
    # The far end of the counter is reached through the first sample, for a tensor that large would not fit.
    last = 2**32 - 3
    np.testing.assert_array_equal(keep(1, 2, (5, 9), 0.5, last), oracle.keep_mask(1, 2, (5, 9), 0.5, last))
    # In a sample of more than 2**32 elements, each byte of a block is read once.
    size = 2**32 + 6
    blocks = (size + 7) // 8
    assert blocks < 2**31
    ends = np.array([0, 1, 4, 4 * blocks - 1, 4 * blocks, 2**32 - 1, 2**32, size - 1])
    assert len({(e // 4 % blocks, e // (4 * blocks), e % 4) for e in ends.tolist()}) == len(ends)
    assert (ends // (4 * blocks)).max() == 1
    # And the arithmetic of its shape holds on every backend.
    assert tuple(shape_of_mask((1, 2, size // 2))) == (1, 2, size // 2)


def shape_of_mask(shape):
    """The shape of a mask that is not drawn."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        draw = tf.function(lambda: random.keep_mask(key_of(1, 2), shape, tf.constant(0.5)))
        return draw.get_concrete_function().output_shapes
    if BACKEND == "jax":
        import jax

        return jax.eval_shape(lambda: random.keep_mask(key_of(1, 2), shape, np.float32(0.5))).shape
    import torch

    key, rate = key_of(1, 2).to("meta"), torch.tensor(0.5, device="meta")
    return random.keep_mask(key, shape, rate).shape


def test_the_state_counts_and_can_be_written():
    state = RandomState(2**32 - 1, 0.25)
    assert isinstance(state, keras.random.SeedGenerator)
    before = ops.convert_to_numpy(state.next()).astype("uint32")
    assert before[:2].tolist() == [2**32 - 1, 0]
    assert state.read()[:2].tolist() == [2**32 - 1, 1]
    state.write(seed=2**31, calls=2**32 - 1, rate=0.1)
    assert state.read()[:2].tolist() == [2**31, 2**32 - 1]
    assert to_numpy(rate_of(state.state.value)) == np.float32(0.1)
    state.next()
    assert state.read()[:2].tolist() == [2**31, 0]


@pytest.mark.parametrize("size", [4, 10_000])
@pytest.mark.parametrize("scale", [np.inf, ops.convert_to_tensor(np.inf, "float32")], ids=["number", "tensor"])
def test_an_infinite_scale_of_what_is_dropped_is_0(size, scale):
    keep, x, upstream = np.zeros((2, size), bool), np.ones((2, size), "float32"), np.ones((2, size), "float32")

    def call(x):
        return random.multiply_where(ops.convert_to_tensor(keep), scale, x)

    y, _ = value_and_gradient(call, x, upstream)
    assert not y.any() and not ops.convert_to_numpy(call(ops.convert_to_tensor(x))).any()
