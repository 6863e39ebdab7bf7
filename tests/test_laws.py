"""What holds for every layer. A law never names a layer; a row of the catalogue says what it needs."""

import inspect
import math

import h5py
import keras
import numpy as np
import pytest
from backend import (
    BACKEND,
    calls_on_two_devices,
    compiled_calls,
    digest,
    exported,
    to_numpy,
    train,
    value_and_gradient,
)
from catalog import ROWS, nearest, rows
from keras import ops, tree
from keras.optimizers.schedules import PiecewiseConstantDecay

if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax
    import jax.experimental.sparse
else:
    import torch

every = rows()
SIGMAS = 4.5


def normal_inputs(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def compute_dtype(policy):
    return keras.DTypePolicy(policy).compute_dtype


def in_dtype(x, dtype):
    """float32 numbers, rounded to a narrower type."""
    return to_numpy(ops.cast(x, dtype))


def wide(row, elements):
    """The row's shape with as many samples as make about so many elements."""
    return (elements // int(np.prod(row.shape[1:])), *row.shape[1:])


def answer(row, layer, x):
    """What the layer makes of a tensor in training."""
    return train(layer, row.inputs(x))


def multiplier(row, layer, shape):
    """What the layer multiplies its next input by: the answer to ones."""
    return answer(row, layer, np.ones(shape, "float32"))


def stream(row, layer):
    """The answers to one input, in as many calls as tell two streams apart."""
    x = normal_inputs(row.shape)
    return np.stack([answer(row, layer, x) for _ in range(3 if row.by_sample else 20)])


# 1. Identity


@rows(identity=True)
def test_inference_is_the_identity(row, policy):
    x = normal_inputs(row.shape)
    layer = row.make(0.5, dtype=policy)
    expected = in_dtype(x, layer.compute_dtype)
    np.testing.assert_array_equal(to_numpy(layer(x)), expected)
    np.testing.assert_array_equal(to_numpy(layer(x, training=False)), expected)


@every
def test_inference_draws_nothing(row):
    layer, x = row.make(0.5), row.inputs(normal_inputs(row.shape))
    np.testing.assert_array_equal(to_numpy(layer(x)), to_numpy(layer(x, training=False)))
    assert row.drawing(layer)._random_state.read()[1] == 0


@rows(rated=True)
def test_rate_0_is_the_plain_layer(row, policy):
    layer = row.make(0, dtype=policy)
    x = in_dtype(normal_inputs(row.shape), layer.compute_dtype)
    expected = in_dtype(row.plain()(row.inputs(x)), layer.compute_dtype) if row.plain else x
    # What a wrapped layer sums, it sums in its own type and order.
    tolerance = 16 * ml_epsilon(policy) if row.plain else 0
    for training in (True,) if row.prunes else (True, False):
        y = to_numpy(layer(row.inputs(x), training=training))
        np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance)


# 2. Support


@rows(product=True, mask=True, by_sample=True)
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_a_mask_is_0_or_the_inverse_of_keep(row, rate, policy):
    m = multiplier(row, row.make(rate, dtype=policy), wide(row, 4000))
    kept = in_dtype(np.float32(row.kept(m, rate)), compute_dtype(policy))
    np.testing.assert_array_equal(m, np.where(m == 0, 0, kept))
    assert (m == 0).any() and (m != 0).any()


@rows(product=True)
def test_one_draw_serves_the_tied_axes_and_no_others(row, policy):
    m = multiplier(row, row.make(0.5, dtype=policy), wide(row, 4000))
    for axis in range(m.ndim):
        assert (np.ptp(m, axis=axis) == 0).all() == (axis in row.tied)


# 3. Mean and rate


@rows(product=True, mask=True, by_sample=True)
@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.9])
def test_the_rate_is_right(row, rate, policy):
    shape = wide(row, 400_000)
    m = multiplier(row, row.make(rate, dtype=policy), shape)
    share, deviation = row.dropped(rate)
    assert abs((m == 0).mean() - share) < SIGMAS * deviation / np.sqrt(row.groups(shape))


@rows(product=True, by_sample=True)
@pytest.mark.parametrize("rate", [0.001, 0.2, 0.5, 0.9])
def test_the_mean_and_the_spread_are_right(row, rate, policy):
    shape = wide(row, 400_000)
    m = multiplier(row, row.make(rate, dtype=policy), shape).astype("float64")
    groups = row.groups(shape)
    if row.mask:
        kept = row.kept(m, rate)
        share, deviation = row.dropped(nearest(rate))
        mean = 1 if row.scaled else 1 - share
        # What a mask keeps is known to the last bit (law 2); the rounding of that is no noise.
        m = np.where(m == 0, 0, kept)
        assert abs(m.mean() - mean) < SIGMAS * np.max(kept) * deviation / np.sqrt(groups)
    else:
        mean, std, rounding = row.mean(rate), row.std(rate), float(ml_epsilon(policy))
        assert abs(m.mean() - mean) < SIGMAS * std / np.sqrt(groups)
        squares = (m - mean) ** 2 / std**2
        assert abs(squares.mean() - 1) < SIGMAS * squares.std() / np.sqrt(groups) + 2 * rounding / std


def ml_epsilon(policy):
    return {"float32": 2**-23, "float16": 2**-10, "bfloat16": 2**-7}[compute_dtype(policy)]


# 4. Gradient


@rows(product=True, shakes=False)
def test_the_gradient_is_the_same_multiplier(row, policy):
    x, upstream = (in_dtype(normal_inputs(row.shape, i), compute_dtype(policy)) for i in (1, 2))
    m = answer(row, row.make(0.5), x) / x if row.by_value else multiplier(row, row.make(0.5), row.shape)
    layer = row.make(0.5, dtype=policy)
    y, gradient = value_and_gradient(lambda x: layer(row.inputs(x), training=True), x, upstream)
    np.testing.assert_allclose(y, in_dtype(x * m, layer.compute_dtype), rtol=ml_epsilon(policy))
    np.testing.assert_allclose(gradient, in_dtype(upstream * m, layer.compute_dtype), rtol=ml_epsilon(policy))
    assert ((y == 0) == (m == 0)).all()


@rows(product=False, by_index=False)
def test_the_gradient_is_that_of_what_was_drawn(row):
    x, direction = normal_inputs(row.shape, 1), 2e-4 * normal_inputs(row.shape, 2)
    ahead, behind = (answer(row, row.make(0.5), x + sign * direction) for sign in (1, -1))
    upstream, layer = normal_inputs(ahead.shape, 3), row.make(0.5)
    layer(x)
    _, gradient = value_and_gradient(lambda x: layer(x, training=True), x, upstream)
    change = np.sum((ahead - behind) * upstream) / 2
    assert abs(change - np.sum(gradient * direction)) < 0.02 * np.linalg.norm(gradient * direction)


@rows(product=True, shakes=False)
def test_each_call_has_its_own_gradient(row):
    layer, twin = row.make(0.5), row.make(0.5)
    upstream = np.ones(row.shape, "float32")
    multipliers = [multiplier(row, twin, row.shape) for _ in range(2)]

    def call(x):
        return layer(row.inputs(x), training=True) + 2 * layer(row.inputs(x), training=True)

    y, gradient = value_and_gradient(call, np.ones(row.shape, "float32"), upstream)
    np.testing.assert_allclose(gradient, multipliers[0] + 2 * multipliers[1], rtol=1e-6)
    np.testing.assert_allclose(y, gradient, rtol=1e-6)


@rows(by_index=False)
def test_a_rematerialized_call_repeats_its_mask_and_counts_once(row):
    x = normal_inputs(row.shape, 1)
    if row.adds_losses and BACKEND != "torch":
        layer = row.make(0.3)
        layer(row.inputs(x))
        with pytest.raises(ValueError, match=rf"{row.layer.__name__} must not be called in keras.remat"):
            value_and_gradient(keras.remat(lambda x: layer(row.inputs(x), training=True)), x, x)
        assert not layer.losses and layer._random_state.read()[1] == 0
        return
    outcomes = []
    for wrap in (keras.remat, lambda function: function):
        layer = row.make(0.3)
        layer(row.inputs(x))
        upstream = normal_inputs(answer(row, row.make(0.3), x).shape, 2)

        def call(x, layer=layer):
            return layer(row.inputs(x), training=True) + 2 * layer(row.inputs(x), training=True)

        function = wrap(call)
        outcomes.append([*value_and_gradient(function, x, upstream), row.drawing(layer)._random_state.read()])
    for one, other in zip(*outcomes, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


# 5. Streams


@every
def test_the_bits_are_those_of_every_backend(row):
    assert digest(row) == row.golden


def independent(row, one, other):
    # What a position has in common with itself, its mean, is no dependence.
    axes = tuple(axis for axis in range(one.ndim) if axis not in row.dependent)
    one, other = (m - m.mean(axes, "float64", keepdims=True) for m in (one, other))
    return abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < SIGMAS / np.sqrt(row.groups(one.shape))


@rows(product=True, by_sample=True)
def test_calls_and_seeds_are_independent(row):
    shape = wide(row, 40_000)
    layers = [row.make(0.5, seed=seed) for seed in (1, 2, 2**32 - 1)]
    draws = {(i, call): multiplier(row, layer, shape) for call in (1, 2, 3) for i, layer in enumerate(layers)}
    pairs = [(a, b) for a in draws for b in draws if a < b]
    # Among them (seed 1, call 2) and (seed 2, call 1), which stock Keras draws alike on PyTorch.
    assert [pair for pair in pairs if not independent(row, *(draws[i] for i in pair))] == []


@every
def test_each_call_and_seed_has_draws_of_its_own(row):
    layers = [row.make(0.5, seed=seed) for seed in (1, 2)]
    assert len({stream(row, layer).tobytes() for layer in layers for _ in range(2)}) == 4


@every
def test_the_same_seed_gives_the_same_draws(row):
    one, *others = (stream(row, row.make(0.5, seed=seed)) for seed in (5, np.int64(5), np.uint8(5)))
    assert all((other == one).all() for other in others)


@every
def test_without_a_seed_layers_differ(row):
    one, other = (stream(row, row.make(0.5, seed=None)) for _ in range(2))
    assert (one != other).any()


@rows(mixes=False, by_batch=False)
def test_a_sample_does_not_depend_on_the_batch(row):
    x = normal_inputs(row.shape)
    few, many = (answer(row, row.make(0.5), x[:n]) for n in (2, len(x)))
    if row.by_share:
        few, many = few != 0, many != 0
    np.testing.assert_allclose(few, many[:2], rtol=1e-5, atol=1e-6)


@every
def test_replicas_are_independent_and_shards_are_not_replicas(row):
    statistics = row.product and row.by_sample
    if BACKEND == "jax":
        # One program over all devices: the draws of a sample are where the sample is.
        x = normal_inputs(row.shape)
        sharded = np.concatenate(calls_on_two_devices(lambda: row.make(0.5), row.inputs(x), calls=1))
        np.testing.assert_allclose(sharded, answer(row, row.make(0.5), np.concatenate([x, x])), rtol=1e-5, atol=1e-6)
        return
    x = np.ones(wide(row, 40_000), "float32") if statistics else normal_inputs(wide(row, 400))
    streams = calls_on_two_devices(lambda: row.make(0.5), row.inputs(x), calls=2 if row.by_sample else 40)
    if statistics:
        assert len(streams) == 4
        for i, one in enumerate(streams):
            assert all(independent(row, one, other) for other in streams[:i])
    else:
        assert (np.stack(streams[::2]) != np.stack(streams[1::2])).any()


# 6. Config and files


@every
def test_config_round_trip(row, policy):
    layer = row.make(0.25, dtype=policy, name="it", trainable=False)
    twin = type(layer).from_config(layer.get_config())
    assert twin.get_config() == layer.get_config()
    assert (twin.dtype_policy.name, twin.trainable, twin.name) == (policy, False, "it")
    x = normal_inputs(row.shape)
    np.testing.assert_array_equal(answer(row, twin, x), answer(row, layer, x))


def functional(row, layer, *others, before=()):
    """A model of the layer, between others."""
    x = inputs = keras.Input(row.shape[1:])
    for other in before:
        x = other(x)
    x = layer(row.inputs(x))
    for other in others:
        x = other(x)
    return keras.Model(inputs, x)


def flatten(row):
    """A layer that makes of what the row's layer returns, in training and at inference, as many features."""
    return keras.layers.GlobalAveragePooling1D() if row.shortens else keras.layers.Flatten()


# Of a kernel that sees any change. Plain sums survive a scale by the share that was kept, and a softmax.
UNEVEN = keras.initializers.RandomUniform(0.5, 1.5, seed=1)


def small_model(row, rate=0.5, head="zeros", **kwargs):
    layer = row.make(rate, name="it", **kwargs)
    model = functional(row, layer, flatten(row), keras.layers.Dense(1, kernel_initializer=head))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def next_draw(model, row):
    return answer(row, model.get_layer("it"), normal_inputs(row.shape))


@every
def test_a_saved_model_goes_on_where_it_was(row, tmp_path):
    model = small_model(row, seed=None)
    x = normal_inputs(row.shape)
    for _ in range(3):
        model(x, training=True)
    # An optimizer without variables would not be read again without a warning.
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    other = small_model(row, seed=None)
    other.load_weights(tmp_path / "model.weights.h5")
    assert loaded.get_layer("it").get_config() == model.get_layer("it").get_config()
    np.testing.assert_array_equal(to_numpy(loaded(x)), to_numpy(model(x)))
    expected = next_draw(model, row)
    np.testing.assert_array_equal(next_draw(loaded, row), expected)
    np.testing.assert_array_equal(next_draw(other, row), expected)


@pytest.mark.skipif(
    BACKEND != "tensorflow", reason="`jax.jvp` is what its gradients are made of; PyTorch: test_torch_func"
)
@rows(by_index=False)
@pytest.mark.parametrize("in_graph", [False, True])
def test_forward_mode_is_the_transpose_of_the_gradient(row, in_graph):
    import tensorflow as tf

    rng = np.random.default_rng(1)
    x, tangent = (tf.constant(rng.standard_normal(row.shape), tf.float32) for _ in range(2))
    layer = row.make(0.5)

    def call(x, tangent):
        with tf.autodiff.ForwardAccumulator(x, tangent) as accumulator:
            y = layer(row.inputs(x), training=True)
        return y, accumulator.jvp(y)

    y, forward = (tf.function(call) if in_graph else call)(x, tangent)
    upstream = rng.standard_normal(y.shape).astype("float32")
    layer = row.make(0.5)
    _, gradient = value_and_gradient(lambda x: layer(row.inputs(x), training=True), x, upstream)
    expected = np.sum(gradient * tangent.numpy())
    assert abs(expected) > 1e-3
    np.testing.assert_allclose(np.sum(forward.numpy() * upstream), expected, rtol=1e-3)


@every
def test_the_random_state_is_no_weight(row):
    bare = row.make(0.5)
    bare.build(row.shape)
    assert not any("random" in v.path for v in bare.weights)
    assert any("random" in v.path for v in bare.variables)
    assert len(bare.get_weights()) == row.weights + (len(bare.layer.weights) if row.wrapped else 0)


@every
def test_a_file_without_random_state_loads(row, tmp_path):
    written, model = small_model(row), small_model(row)
    written.set_weights([w + 1 for w in written.get_weights()])
    written.save_weights(tmp_path / "it.weights.h5")
    with h5py.File(tmp_path / "it.weights.h5", "a") as file:
        names = []
        file.visit(names.append)
        (name,) = (name for name in names if name.endswith("/random_state"))
        del file[name]
    model.load_weights(tmp_path / "it.weights.h5")
    for one, other in zip(model.get_weights(), written.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert row.drawing(model.get_layer("it"))._random_state.read()[:2].tolist() == [7, 0]


@every
def test_export(row, tmp_path):
    model = small_model(row, head="ones")
    x = normal_inputs(row.shape)
    np.testing.assert_allclose(exported(model, x, tmp_path), to_numpy(model(x)), rtol=1e-5, atol=1e-5)


# 7. Compiled is eager


@every
@pytest.mark.parametrize("jit_compile", [False, True] if BACKEND == "tensorflow" else [False])
def test_compiled_is_eager(row, jit_compile):
    n = row.shape[0]
    inputs = [row.inputs(normal_inputs((n, *row.shape[1:]), seed=n)) for n in (n, n, 2)]
    layer = row.make(0.3)
    eager = [train(layer, x) for x in inputs]
    compiled = compiled_calls(row.make(0.3), inputs, jit_compile)
    for one, other in zip(compiled, eager, strict=True):
        if row.product:
            np.testing.assert_array_equal(one, other)
        else:
            np.testing.assert_allclose(one, other, rtol=2e-6, atol=2e-6)


class Subclassed(keras.Model):
    def __init__(self, inputs, layers):
        super().__init__()
        self.inputs_of, self.parts = inputs, layers

    def call(self, x, training=False):
        first, *others = self.parts
        x = first(self.inputs_of(x), training=training)
        for part in others:
            x = part(x)
        return x


def built(style, row, rate):
    layers = [row.make(rate, name="it"), flatten(row), keras.layers.Dense(1, kernel_initializer=UNEVEN)]
    if style == "sequential":
        # Which takes one tensor.
        return keras.Sequential([functional(row, *layers[:1]), *layers[1:]] if row.merges else layers)
    return Subclassed(row.inputs, layers) if style == "subclassed" else functional(row, *layers)


STYLES = ["functional", "sequential", "subclassed"]


@every
def test_fit_trains_and_evaluate_and_predict_do_not_drop(row):
    """In models of each style, of which the rows take turns to compile one: the others run eagerly.

    On JAX all are compiled: it compiles each operation of an eager model, as it has for the laws of the gradient.
    """
    compiled = STYLES[ROWS.index(row) % len(STYLES)]
    shape = row.shape[1:]
    # The last batch is short.
    x, y = normal_inputs((row.shape[0] + 2, *shape)), np.zeros((row.shape[0] + 2, 1), "float32")
    models = {style: built(style, row, 0.5) for style in STYLES}
    losses = {}
    for style, model in models.items():
        model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=style != compiled and BACKEND != "jax")
        history = model.fit(x, y, batch_size=row.shape[0], epochs=2, shuffle=False, verbose=0)
        losses[style] = history.history["loss"]
        np.testing.assert_allclose(losses[style], losses["functional"], rtol=1e-4)
    for style in {compiled, "subclassed"}:
        model = models[style]
        expected = to_numpy(model(x))
        np.testing.assert_allclose(model.predict(x, verbose=0), expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(model.evaluate(x, y, verbose=0), np.mean(expected**2), rtol=1e-4)
        assert not np.isclose(losses[style], np.mean(expected**2), rtol=1e-5).any()
    if row.identity:
        untouched = built(compiled, row, 0)
        untouched(x)
        untouched.set_weights(models[compiled].get_weights())
        np.testing.assert_allclose(to_numpy(untouched(x)), to_numpy(models[compiled](x)), rtol=1e-6)


# 8. Time: resuming, a late rate, schedules


@every
def test_resuming_is_exact(row, tmp_path):
    n = row.shape[0]
    x = normal_inputs((n + 2, *row.shape[1:]))
    y = x.reshape(len(x), -1).mean(1, keepdims=True)

    def fit(model, epochs):
        model.fit(x, y, batch_size=n, epochs=epochs, shuffle=False, verbose=0)

    whole, halves = small_model(row), small_model(row)
    fit(whole, 4)
    fit(halves, 2)
    halves.save(tmp_path / "half.keras")
    resumed = keras.saving.load_model(tmp_path / "half.keras")
    fit(resumed, 2)
    for one, other in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(next_draw(resumed, row), next_draw(whole, row))


class SetRate(keras.callbacks.Callback):
    """Sets a rate after the first batch of an epoch, and keeps each batch's loss."""

    def __init__(self, row, rate):
        super().__init__()
        self.row, self.rate, self.losses = row, rate, []

    def on_epoch_begin(self, epoch, logs=None):
        self.sum = 0.0

    def on_train_batch_end(self, batch, logs=None):
        if batch == 0:
            setattr(self.model.get_layer("it"), self.row.parameter, self.rate)
        # Keras reports the mean since the epoch's beginning.
        total = logs["loss"] * (batch + 1)
        self.losses.append(total - self.sum)
        self.sum = total


@rows(rated=True)
def test_a_rate_set_late_takes_effect_at_the_next_batch(row):
    # Not ones, for the same reason as the head. Nor samples alike.
    model = small_model(row, rate=0.0, head=UNEVEN)
    model.compile(keras.optimizers.SGD(0.0), "mae")
    batch = (np.arange(math.prod(row.shape), dtype="float32") % 37).reshape(row.shape)
    n = row.shape[0]
    x, y = np.concatenate([batch] * 3), np.zeros((3 * n, 1))
    plain = to_numpy(row.plain()(row.inputs(batch)) if row.plain else batch).reshape(n, -1)
    whole = (plain @ to_numpy(model.layers[-1].kernel)).mean()
    for rate, expected in ((row.drops_for_sure, [True, False, False]), (0.0, [False, True, True])):
        callback = SetRate(row, rate)
        model.fit(x, y, batch_size=n, epochs=1, shuffle=False, verbose=0, callbacks=[callback])
        assert np.isclose(callback.losses, whole, rtol=1e-5).tolist() == expected
    loss = model.fit(x, y, batch_size=n, shuffle=False, verbose=0).history["loss"][0]
    assert np.isclose(loss, whole, rtol=1e-5)


@rows(rated=True)
def test_a_schedule_counts_calls(row):
    schedule = PiecewiseConstantDecay([1], [0.0, row.drops_for_sure])
    x = normal_inputs(row.shape)
    plain = to_numpy(row.plain()(row.inputs(x))) if row.plain else x
    x, layer = row.inputs(x), row.make(schedule)
    outputs = {
        "eager": [train(layer, x) for _ in range(4)],
        "compiled": compiled_calls(row.make(schedule), [x] * 4),
        "round trip": [train(type(layer).from_config(layer.get_config()), x)] * 2 + [train(layer, x)],
    }
    for ys in outputs.values():
        undisturbed = [np.allclose(y, plain, rtol=1e-5, atol=1e-6) for y in ys]
        assert undisturbed == [True, True, False, False][: len(ys)]
    np.testing.assert_allclose(outputs["eager"], outputs["compiled"], rtol=1e-5, atol=1e-6)
    setattr(layer, row.parameter, 0)
    np.testing.assert_allclose(train(layer, x), plain, rtol=1e-5, atol=1e-6)


@rows(rated=True)
def test_a_schedule_cannot_come_late(row):
    layer = row.make(0.5)
    with pytest.raises(ValueError, match=f"(?s){row.parameter}.*Received"):
        setattr(layer, row.parameter, PiecewiseConstantDecay([1], [0.0, 0.5]))
    assert getattr(layer, row.parameter) == 0.5


# 9. Masks and symbols


@every
def test_a_sequence_mask_passes_through(row):
    layer = row.make(0.5)
    mask = ops.ones(row.shape[:2], "bool")
    assert layer.supports_masking == row.keeps_masks
    if row.keeps_masks:
        x = row.inputs(ops.ones(row.shape))
        passed = layer.compute_mask(x, tree.map_structure(lambda x: mask, x))
        np.testing.assert_array_equal(ops.convert_to_numpy(passed), ops.convert_to_numpy(mask))
    # A merge keeps a mask that both branches have.
    if row.keeps_masks and len(row.shape) == 3 and not row.merges:
        x = normal_inputs(row.shape)
        x[:, 2:] = 0
        model = functional(row, layer, keras.layers.GlobalAveragePooling1D(), before=[keras.layers.Masking()])
        np.testing.assert_allclose(to_numpy(model(x)), to_numpy(layer(x))[:, :2].mean(1), rtol=1e-5, atol=1e-6)


@every
def test_symbols_are_as_eager(row, policy):
    layer = row.make(0.5, dtype=policy)
    symbol = layer(row.inputs(keras.Input(row.shape[1:])), training=True)
    y = layer(row.inputs(normal_inputs(row.shape)), training=True)
    assert (None, *y.shape[1:]) == symbol.shape
    assert keras.backend.standardize_dtype(y.dtype) == symbol.dtype


# 10. Bad numbers, bad arguments


@rows(product=True, mask=True)
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_what_is_dropped_is_0_whatever_it_was(row, bad, policy):
    shape = wide(row, 2000)
    y = answer(row, row.make(0.5, dtype=policy), np.full(shape, bad, "float32"))
    m = multiplier(row, row.make(0.5), shape)
    np.testing.assert_array_equal(y, np.where(m == 0, 0, bad))
    if row.accepts_max and row.area == (1, 1) and not row.by_own_share:
        assert (answer(row, row.make(row.max_rate, dtype=policy), np.full(shape, bad, "float32")) == 0).all()


@rows(rated=True)
@pytest.mark.parametrize(
    "rate",
    [-0.1, 1.5, np.nan, np.inf, True, "0.5", None, [0.5], 1j, np.ones(2), np.array(True), np.array("0.5")],
    ids=repr,
)
def test_a_bad_rate_is_refused(row, rate):
    with pytest.raises(ValueError, match=f"(?s)`{row.parameter}` must be.*in .0, .*Received: {row.parameter}="):
        row.make(rate)
    layer = row.make(0.5)
    with pytest.raises(ValueError, match=row.parameter):
        setattr(layer, row.parameter, rate)
    assert getattr(layer, row.parameter) == 0.5


@rows(rated=True)
def test_the_largest_rate(row):
    if row.accepts_max:
        row.make(row.max_rate)
    else:
        with pytest.raises(ValueError, match=row.parameter):
            row.make(row.max_rate)


@every
@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, True, "1", [1]], ids=repr)
def test_a_bad_seed_is_refused(row, seed):
    with pytest.raises(ValueError, match=r"(?s)`seed` must be.*Received: seed="):
        row.make(0.5, seed=seed)


def takes(layer, shape):
    """Whether Keras's own layer takes an input of such a shape: some make an error of an axis of size 0."""
    try:
        layer.compute_output_spec(keras.KerasTensor(shape))
        layer(np.ones(shape, "float32"))
    except Exception:
        return False
    return True


@rows(by_index=False)
def test_what_is_empty_stays_empty(row):
    for axis in range(len(row.shape)):
        shape = (*row.shape[:axis], 0, *row.shape[axis + 1 :])
        if row.plain and not takes(row.plain(), shape):
            continue
        x, layer = np.ones(shape, "float32"), row.make(0.5)
        trained, output = (
            layer.compute_output_spec(row.inputs(keras.KerasTensor(shape)), training=training).shape
            for training in (True, False)
        )
        call = lambda x, layer=layer: layer(row.inputs(x), training=True)  # noqa: E731
        y, gradient = value_and_gradient(call, x, np.ones(trained, "float32"))
        assert (y.shape, gradient.shape) == (trained, shape)
        assert to_numpy(layer(row.inputs(x))).shape == output


@rows(rated=True)
def test_a_scalar_of_any_kind_is_a_number(row):
    for rate in (np.float16(0.5), np.array(0.5), ops.convert_to_tensor(0.5), ops.cast(0.5, "bfloat16")):
        layer = row.make(rate)
        assert type(getattr(layer, row.parameter)) is float and getattr(layer, row.parameter) == 0.5
        setattr(layer, row.parameter, rate)
        assert layer.get_config()[row.parameter] == 0.5


@rows(rated=True)
def test_a_config_without_a_rate_is_an_error(row):
    config = row.make(0.5).get_config()
    del config[row.parameter]
    if inspect.signature(row.layer).parameters[row.parameter].default is inspect.Parameter.empty:
        with pytest.raises(TypeError, match=row.parameter):
            row.layer.from_config(config)
    else:
        row.layer.from_config(config)


@every
def test_what_a_file_may_not_have_as_random_state(row):
    layer = row.make(0.5, seed=3)
    for words in ([np.nan, 0], [-1, 0], [0, 1.5], [2**32, 0], [0, np.inf], [1, 2, 3], 5, ["1", "2"], [True, False]):
        with pytest.raises(ValueError, match=r"random state.*two integers in \[0, 2\*\*32\).*Received: random_state="):
            row.drawing(layer).load_own_variables({"random_state": np.array(words)})
    assert row.drawing(layer)._random_state.read()[:2].tolist() == [3, 0]


def no_tensors(shape):
    """What is not one dense tensor: nests, and what the backend has of sparse and ragged tensors."""
    x = ops.ones(shape)
    yield from ([x, x], {"a": x}, None)
    if BACKEND == "tensorflow":
        yield from (tf.sparse.from_dense(x), tf.RaggedTensor.from_tensor(x))
    elif BACKEND == "jax":
        yield jax.experimental.sparse.BCOO.fromdense(x)
    else:
        yield from (x.to_sparse(), torch.nested.nested_tensor([x[0], x[0]]))


@rows(wrapped=False, called=False)
def test_what_is_no_tensor_of_floats_is_refused(row):
    """In training, and where inference is no identity, at inference too."""
    layer, tensors = row.make(0.5), row.inputs(ops.ones(row.shape))

    def inputs(x):
        return [*tensors[:-1], x] if row.merges else x

    for dtype in ("int32", "uint8", "bool"):
        x = inputs(np.ones(row.shape, dtype))
        if row.integers and dtype != "bool":
            y, symbol = (layer(x, training=True) for x in (x, keras.KerasTensor(row.shape, dtype)))
            assert keras.backend.standardize_dtype(y.dtype) == symbol.dtype == dtype
            continue
        refused = rf"(?s)`\w+` of {row} must be one tensor of a floating-point .*{dtype}"
        with pytest.raises(ValueError, match=refused):
            layer(x, training=True)
        if row.identity:
            y = layer(x)
            assert keras.backend.standardize_dtype(y.dtype) == dtype and (ops.convert_to_numpy(y) == x).all()
        else:
            with pytest.raises(ValueError, match=refused):
                layer(x)
    for x in no_tensors(row.shape):
        for training in (True, False):
            if row.identity and not training:
                assert layer.call(x) is x
                continue
            with pytest.raises(ValueError, match=rf"(?s)`\w+` of {row} must be one tensor.*Received: \w+ of \w+"):
                layer.call(inputs(x), training=training)
    assert row.drawing(layer)._random_state.read()[1] == (2 if row.integers else 0)
