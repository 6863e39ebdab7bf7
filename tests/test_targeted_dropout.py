"""Targeted dropout against its definition: which weights are candidates, and what becomes of them."""

import keras
import numpy as np
import oracle
import pytest
from backend import to_numpy, train
from keras import layers
from keras.optimizers.schedules import PolynomialDecay

from keras_dropouts import RateLogger, TargetedDropout, compress


def normal(shape, dtype=None):
    """Initial weights, the same on every backend."""
    return keras.ops.convert_to_tensor(np.random.default_rng(5).normal(0, 0.5, shape).astype("float32"))


def inputs(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype("float32")


def candidates(kernel, summed, targeted, by):
    """Those of a kernel whose units are along the axes that are not summed over, one unit after the other."""
    rank, found = kernel.ndim, np.zeros(kernel.shape, bool)
    units = [axis for axis in range(rank) if axis not in summed]
    moved, places = (np.transpose(x, (*units, *summed)) for x in (kernel, found))
    sizes = [kernel.shape[axis] for axis in units]
    if by == "unit":
        norms = {unit: np.linalg.norm(moved[unit]) for unit in np.ndindex(*sizes)}
        first = int(np.float32(targeted) * np.float32(len(norms)))
        for unit, norm in norms.items():
            places[unit] = first == len(norms) or norm < sorted(norms.values())[first]
    else:
        for unit in np.ndindex(*sizes):
            magnitudes = np.abs(moved[unit])
            first = int(np.float32(targeted) * np.float32(magnitudes.size))
            places[unit] = first == magnitudes.size or magnitudes < np.sort(magnitudes, axis=None)[first]
    return found


def dense():
    return layers.Dense(4, kernel_initializer=normal, bias_initializer="ones")


KERNELS = [
    (layers.Dense(5, kernel_initializer=normal), (2, 7), (0,)),
    (layers.EinsumDense("abcd,cde->abe", (None, 4), kernel_initializer=normal), (2, 3, 5, 6), (0, 1)),
    (layers.EinsumDense("abc,cde->abde", (None, 4, 2), kernel_initializer=normal), (2, 3, 5), (0,)),
    (layers.Conv1D(4, 3, groups=2, kernel_initializer=normal), (2, 5, 6), (0, 1)),
    (layers.Conv2DTranspose(4, 3, kernel_initializer=normal), (2, 5, 3, 7), (0, 1, 3)),
    (layers.DepthwiseConv2D(3, depth_multiplier=2, depthwise_initializer=normal), (2, 5, 4, 3), (0, 1)),
]


@pytest.mark.parametrize("by", ["weight", "unit"])
@pytest.mark.parametrize("layer, shape, summed", KERNELS, ids=[layer.name for layer, *_ in KERNELS])
def test_the_smallest_are_pruned(layer, shape, summed, by):
    for targeted in (0.0, 0.3, 0.75, 1.0):
        wrapper = TargetedDropout(layer, 0.5, targeted, by)
        wrapper.build(shape)
        kernel, whole = (to_numpy(w) for w in (wrapper.pruned_weights()[0], wrapper.layer.kernel))
        expected = np.where(candidates(whole, summed, targeted, by), 0, whole)
        np.testing.assert_array_equal(kernel, expected)
        assert (expected == 0).any() == (targeted > 0) and (expected != 0).any() == (targeted < 1)
    # And inference computes with that.
    wrapper = TargetedDropout(layer, 0.5, 0.5, by)
    x = inputs(*shape)
    y = to_numpy(wrapper(x))
    layer.kernel.assign(wrapper.pruned_weights()[0])
    np.testing.assert_allclose(to_numpy(layer(x)), y, rtol=1e-5, atol=1e-5)
    layer.kernel.assign(whole)


@pytest.mark.parametrize("by", ["weight", "unit"])
def test_candidates_are_dropped_by_the_bits_of_the_oracle_and_nothing_is_scaled(by):
    layer, x = TargetedDropout(dense(), 0.7, 0.5, by, seed=6), inputs(3, 7)
    for call in range(2):
        y = train(layer, x)
        kernel, bias = layer.get_weights()
        size = 28 if by == "weight" else 4
        keep = oracle.keep_mask(6, call, (1, size), 0.7).reshape((7, 4) if by == "weight" else (1, 4))
        kept = np.where(candidates(kernel, (0,), 0.5, by) & ~keep, 0, kernel)
        assert (kept != kernel).any()
        np.testing.assert_allclose(y, x @ kept + bias, rtol=1e-5, atol=1e-5)


def test_equal_weights_are_no_candidates_and_no_bias_is():
    layer = TargetedDropout(layers.Dense(3, kernel_initializer="ones", bias_initializer="zeros"), 1.0, 0.5)
    layer.build((2, 4))
    assert (to_numpy(layer.pruned_weights()[0]) == 1).all()
    layer = TargetedDropout(dense(), 1.0, 1.0)
    np.testing.assert_array_equal(train(layer, inputs(2, 7)), np.ones((2, 4)))


def test_what_is_dropped_has_no_gradient_and_what_is_kept_has_the_plain_one():
    layer, x = TargetedDropout(dense(), 1.0, 0.5), inputs(6, 7)
    model = keras.Sequential([keras.Input((7,)), layer])
    # The loss is the sum of the outputs, but for a factor.
    model.compile(keras.optimizers.SGD(1.0), lambda y, outputs: keras.ops.sum(outputs, axis=-1))
    before = layer.get_weights()
    model.fit(x, np.zeros((6, 4)), batch_size=6, verbose=0)
    after = layer.get_weights()
    dropped = candidates(before[0], (0,), 0.5, "weight")
    expected = np.where(dropped, 0, np.tile(x.mean(0)[:, None], 4))
    np.testing.assert_allclose(before[0] - after[0], expected, rtol=1e-4, atol=1e-5)


def test_candidates_are_the_same_in_mixed_precision():
    kernel = 1 + np.arange(8, dtype="float32")[:, None] / 10_000
    layer = TargetedDropout(layers.Dense(1, use_bias=False), 1.0, 0.5, dtype="mixed_bfloat16")
    layer.build((1, 8))
    layer.set_weights([kernel])
    x = np.eye(8, dtype="float32")
    for y in (to_numpy(layer(x)), train(layer, x), to_numpy(layer.pruned_weights()[0])):
        assert (y[:, 0] == 0).tolist() == [True] * 4 + [False] * 4


def test_the_logger_tells_both_numbers():
    ramp = PolynomialDecay(0.0, 4, end_learning_rate=0.5)
    layer = TargetedDropout(layers.Dense(2), rate=0.25, targeted=ramp, name="it")
    model = keras.Sequential([keras.Input((3,)), layer])
    model.compile("sgd", "mse")
    history = model.fit(inputs(4, 3), inputs(4, 2), batch_size=2, verbose=0, callbacks=[RateLogger()]).history
    assert (history["rate/it"], history["targeted/it"]) == ([0.25], [0.25])


def test_both_numbers_may_be_ramped(tmp_path):
    ramp = PolynomialDecay(0.0, 4, end_learning_rate=0.5)
    layer = TargetedDropout(layers.Dense(1, use_bias=False, kernel_initializer="ones"), 1.0, ramp, name="it")
    model = keras.Sequential([keras.Input((8,)), layer])
    x = np.eye(8, dtype="float32")
    layer.set_weights([np.arange(1, 9)[:, None]])
    for step in range(6):
        for y in (to_numpy(model(x)), to_numpy(model(x, training=True))):
            assert (y == 0).sum() == min(step, 4)
        model.save(tmp_path / "model.keras")
        model = keras.saving.load_model(tmp_path / "model.keras")
    layer = TargetedDropout(dense(), ramp, ramp)
    assert layer.current_rate() == 0 and layer.get_config()["targeted"] == layer.get_config()["rate"]


def test_bad_arguments_are_refused():
    for targeted in (-0.1, 1.1, np.nan, True, "0.5", PolynomialDecay(2.0, 4)):
        with pytest.raises(ValueError, match=r"`targeted` must be a number in \[0, 1\], .*Received: targeted="):
            TargetedDropout(dense(), 0.5, targeted)
    with pytest.raises(ValueError, match=r"`by` must be 'weight' or 'unit'\. Received: by='units'"):
        TargetedDropout(dense(), by="units")


@pytest.mark.parametrize("by", ["weight", "unit"])
def test_compressed_it_is_a_plain_layer_that_predicts_the_same(by):
    targeted = TargetedDropout(layers.Dense(6, "relu"), 0.5, 0.5, by=by)
    model = keras.Sequential([keras.Input((5,)), targeted, layers.Dense(2)])
    x = np.random.default_rng(0).standard_normal((3, 5)).astype("float32")
    compressed = compress(model)
    assert type(compressed.model.layers[0]) is layers.Dense
    np.testing.assert_allclose(to_numpy(compressed.model(x)), to_numpy(model(x)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(compressed.sparsity, {"weight": 0.4, "unit": 0.5}[by])
