"""SkipPath against a loop over the chosen samples: how many, which, and what the branch gets to see."""

import keras
import numpy as np
import oracle
import pytest
from backend import BACKEND, compiled_calls, to_numpy, train, value_and_gradient
from keras import ops

from keras_dropouts import SkipPath

SIGMAS = 4.5


@keras.saving.register_keras_serializable(package="test")
class Seen(keras.layers.Layer):
    """A user's branch, with no `compute_output_shape`: twice its input, and what it was called with."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def call(self, inputs, mask=None):
        self.seen = inputs, mask
        return 2 * inputs


def x_of(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def chosen(seed, call, samples, m):
    """Which samples a call takes: those of the smallest 32-bit draws."""
    d = oracle.draws(seed, call, (samples, 2))
    order = np.argsort(d[:, 0] * 65536 + d[:, 1] + 32768)
    return np.isin(np.arange(samples), order[:m])


@pytest.mark.parametrize(
    ("samples", "rate", "m"),
    [
        (10, 0.0, 10),
        (10, 0.5, 5),
        (10, 0.25, 7),
        (10, 0.95, 1),
        (1, 0.5, 1),
        (30, 0.9, 3),
        (9, 2 / 3, 3),
        (100, 0.3, 70),
    ],
)
def test_the_count_is_exact_and_the_branch_sees_no_other_sample(samples, rate, m):
    x, block = x_of((samples, 3)), Seen()
    layer = SkipPath(block, rate, seed=5)
    for call in range(2):
        taken = chosen(5, call, samples, m)
        y = train(layer, x)
        rows = to_numpy(block.seen[0])
        assert taken.sum() == len(rows) == m
        np.testing.assert_array_equal(np.sort(rows, axis=0), np.sort(x[taken], axis=0))
        expected = x + taken[:, None] * 2 * x * np.float32(samples / m)
        np.testing.assert_allclose(y, expected, rtol=1e-6)
    np.testing.assert_allclose(to_numpy(layer(x)), 3 * x, rtol=1e-6)


def test_every_sample_is_chosen_as_often_and_the_mean_is_that_of_inference():
    layer, x = SkipPath(Seen(), 0.7, seed=1), np.ones((10, 1), "float32")
    calls = np.stack([train(layer, x)[:, 0] for _ in range(300)])
    assert ((calls != 1).sum(1) == 3).all()
    assert abs((calls != 1).mean(0) - 0.3).max() < SIGMAS * np.sqrt(0.3 * 0.7 / 300)
    np.testing.assert_allclose(calls.mean(), 3, rtol=1e-6)


def test_the_gradient_of_inputs_and_weights():
    x, upstream, dense = x_of((8, 5)), x_of((8, 5), 1), keras.layers.Dense(5)
    layer = SkipPath(dense, 0.5, seed=2)
    layer.build(x.shape)
    taken = chosen(2, 0, 8, 4)[:, None]
    kernel = to_numpy(dense.kernel)
    y, gradient = value_and_gradient(lambda x: layer(x, training=True), x, upstream)
    np.testing.assert_allclose(y, x + 2 * taken * (x @ kernel), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, upstream + 2 * taken * (upstream @ kernel.T), rtol=1e-5, atol=1e-6)
    model = keras.Sequential([keras.Input((5,)), SkipPath(keras.layers.Dense(5, name="it"), 0.5, seed=2)])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    before = to_numpy(model.layers[0].layer.kernel)
    model.fit(x, upstream, batch_size=8, shuffle=False, verbose=0)
    error = x + 2 * taken * (x @ before) - upstream
    expected = before - x.T @ (2 * taken * error) * 2 / error.size
    np.testing.assert_allclose(to_numpy(model.layers[0].layer.kernel), expected, rtol=1e-4, atol=1e-5)


def test_the_mask_of_the_chosen_samples():
    x, mask, block = x_of((6, 4, 2)), np.arange(4) < np.arange(6)[:, None] % 4 + 1, Seen()
    layer = SkipPath(block, 0.5, seed=3)
    layer(ops.convert_to_tensor(x), mask=ops.convert_to_tensor(mask), training=True)
    rows, seen = (ops.convert_to_numpy(part) for part in block.seen)
    assert len(rows) == 3
    for row, own in zip(rows, seen, strict=True):
        (sample,) = (i for i in range(6) if (x[i] == row).all())
        np.testing.assert_array_equal(own, mask[sample])


def test_a_mask_is_seen_within_a_branch_that_takes_none():
    class Block(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.supports_masking, self.within = True, Seen()

        def call(self, inputs):
            return self.within(inputs)

    x, block = np.arange(24, dtype="float32").reshape(6, 4, 1) % 8, Block()
    layer = SkipPath(block, 0.5, seed=3)
    for training, samples in ((True, 3), (False, 6)):
        layer(keras.layers.Masking()(x), training=training)
        rows, mask = map(ops.convert_to_numpy, block.within.seen)
        assert mask.shape == (samples, 4)
        np.testing.assert_array_equal(mask, rows[:, :, 0] != 0)


def test_batch_normalization_within_sees_the_chosen_samples():
    x, norm = x_of((8, 3)), keras.layers.BatchNormalization(momentum=0.0)
    block = keras.Sequential([norm, keras.layers.Dense(3)])
    layer = SkipPath(block, 0.5, seed=4)
    train(layer, x)
    np.testing.assert_allclose(to_numpy(norm.moving_mean), x[chosen(4, 0, 8, 4)].mean(0), rtol=1e-5, atol=1e-6)
    y = to_numpy(layer(x))
    np.testing.assert_allclose(y, x + to_numpy(block(x)), rtol=1e-5, atol=1e-6)
    assert len(layer.losses) == 0 and len(layer.weights) == 6


def test_compiled_for_batches_of_several_sizes():
    inputs = [x_of((n, 3), n) for n in (7, 4, 4)]
    eager, twin = SkipPath(Seen(), 0.6, seed=6), SkipPath(Seen(), 0.6, seed=6)
    expected = [train(eager, x) for x in inputs]
    for y, other in zip(compiled_calls(twin, inputs, BACKEND == "tensorflow"), expected, strict=True):
        np.testing.assert_allclose(y, other, rtol=1e-6)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="sizes are known on the other backends")
def test_a_batch_of_unknown_size():
    import tensorflow as tf

    eager, twin = SkipPath(Seen(), 0.6, seed=6), SkipPath(Seen(), 0.6, seed=6)
    call = tf.function(lambda x: twin(x, training=True), [tf.TensorSpec((None, 3))])
    for n in (7, 4, 0, 1):
        x = x_of((n, 3), n)
        np.testing.assert_allclose(to_numpy(call(x)), train(eager, x), rtol=1e-6)


@pytest.mark.parametrize(
    "rate", [-0.1, 1, 1.0, np.nan, True, "0.5", None, keras.optimizers.schedules.CosineDecay(0.5, 9)]
)
def test_what_the_rate_may_not_be(rate):
    with pytest.raises(ValueError, match=r"(?s)`rate` must be a number in \[0, 1\).*Received: rate="):
        SkipPath(Seen(), rate)


def test_the_rate_cannot_be_set_late():
    layer = SkipPath(Seen(), 0.5)
    with pytest.raises(ValueError, match=r"`rate` of SkipPath must be given when.*Received: rate="):
        layer.rate = 0.3
    assert layer.rate == layer.get_config()["rate"] == 0.5


def test_a_branch_that_changes_the_shape_is_refused():
    with pytest.raises(ValueError, match=r"(?s)`layer` of SkipPath must return one tensor.*Received: layer=<"):
        train(SkipPath(keras.layers.Dense(4)), x_of((2, 3)))
