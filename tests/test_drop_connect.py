"""DropConnect against masks by the thousand, and what it leaves of the layer that it wraps."""

import warnings

import keras
import numpy as np
import pytest
from backend import BACKEND, to_numpy, train, value_and_gradient
from keras import ops

from keras_dropouts import DropConnect, Standout

RELU, TANH, LINEAR = (lambda u: np.maximum(u, 0)), np.tanh, (lambda u: u)
MASKS = 20_000
SIGMAS = 4.5


def softmax(u):
    return np.exp(u) / np.exp(u).sum(-1, keepdims=True)


def normal(shape, dtype=None):
    """Initial weights, the same on every backend."""
    return ops.convert_to_tensor(np.random.default_rng(5).normal(0.1, 0.2, shape).astype("float32"))


def dense(activation, units=3):
    return keras.layers.Dense(units, activation, kernel_initializer=normal, bias_initializer=normal)


def brute_force(layer, v, rate, activation, masks=MASKS):
    """Outputs of shape (masks, examples, units) with the layer's weights dropped by NumPy."""
    kernel, bias = layer.get_weights()
    rng = np.random.default_rng(0)
    u = np.empty((masks, len(v), len(bias)))
    for outputs in u:
        kept = kernel * (rng.random((len(v), *kernel.shape)) >= rate)
        outputs[:] = np.einsum("bi,bio->bo", v, kept) + bias * (rng.random((len(v), len(bias))) >= rate)
    return activation(u)


def drawn(wrapper, v, masks=MASKS):
    """Outputs of shape (masks, examples, units) of as many copies of each example in one batch."""
    return train(wrapper, np.repeat(v, masks, 0)).reshape(len(v), masks, -1).swapaxes(0, 1).astype("float64")


def inputs(features=100, examples=2):
    return np.random.default_rng(1).standard_normal((examples, features)).astype("float32")


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("name, activation", [("relu", RELU), ("tanh", TANH), ("linear", LINEAR)])
def test_training_and_inference_agree_with_brute_force(name, activation, rate):
    v = inputs()
    wrapper = DropConnect(dense(name), rate, seed=3)
    y = drawn(wrapper, v)
    truth = brute_force(wrapper.layer, v, rate, activation)
    error = np.sqrt((y.var(0) + truth.var(0)) / MASKS)
    assert (abs(y.mean(0) - truth.mean(0)) < SIGMAS * error).all()
    # The standard error of a variance takes the fourth moment.
    fourth = sum(((z - z.mean(0)) ** 4).mean(0) - z.var(0) ** 2 for z in (y, truth))
    assert (abs(y.var(0) - truth.var(0)) < SIGMAS * np.sqrt(fourth / MASKS)).all()
    kernel, bias = wrapper.layer.get_weights()
    mean = (1 - rate) * (v @ kernel + bias)
    deviation = np.sqrt(rate * (1 - rate) * (v**2 @ kernel**2 + bias**2))
    # The sum of 100 terms is not quite Gaussian; its own mean is exact.
    skew = 0 if name == "linear" else 0.01 * deviation
    errors = abs(to_numpy(wrapper(v)) - truth.mean(0))
    assert (errors < SIGMAS * truth.std(0) / np.sqrt(MASKS) + skew).all()
    # The activation of the mean, which the inference is not.
    assert name == "linear" or (abs(activation(mean) - truth.mean(0)) > 5 * errors).any()


def test_the_mean_of_relu_where_relu_of_the_mean_is_0():
    rng = np.random.default_rng(0)
    v, kernel = rng.standard_normal((1, 200)), rng.standard_normal((200, 1)) * 0.2
    wrapper = DropConnect(keras.layers.Dense(1, "relu"), 0.5, seed=1)
    wrapper.build(v.shape)
    wrapper.layer.set_weights([kernel, np.zeros(1)])
    assert v @ kernel < -1
    truth = brute_force(wrapper.layer, v, 0.5, RELU)
    assert truth.mean() > 0.1
    assert abs(to_numpy(wrapper(v)).item() - truth.mean()) < SIGMAS * truth.std() / np.sqrt(MASKS) + 0.005


@pytest.mark.parametrize(
    "name, activation, error",
    [
        ("sigmoid", lambda u: 1 / (1 + np.exp(-u)), 1e-6),
        ("tanh", TANH, 1e-3),
        ("softplus", lambda u: np.log1p(np.exp(u)), 1e-6),
        ("leaky_relu", lambda u: np.where(u > 0, u, 0.2 * u), 0.01),
        ("relu", RELU, 1e-5),
        ("softmax", softmax, 0.005),
        ("log_softmax", lambda u: np.log(softmax(u)), 0.03),
    ],
)
def test_the_mean_of_the_activation_is_that_over_the_gaussian(name, activation, error):
    v = inputs(30)
    wrapper = DropConnect(dense(name, units=5), 0.375)
    result = to_numpy(wrapper(v))
    kernel, bias = (w.astype("float64") for w in wrapper.layer.get_weights())
    mean = 0.625 * (v @ kernel + bias)
    deviation = np.sqrt(0.625 * 0.375 * (v**2 @ kernel**2 + bias**2))
    if "softmax" in name:
        sample = np.random.default_rng(2).standard_normal((200_000, *mean.shape))
        truth = activation(mean + deviation * sample).mean(0)
    else:
        z = np.linspace(-12, 12, 20_001)[:, None, None]
        density = np.exp(-(z**2) / 2)
        truth = (density * activation(mean + deviation * z)).sum(0) / density.sum()
    assert abs(result - truth).max() < error
    assert abs(activation(mean) - truth).max() > 2 * error or name == "sigmoid"


def test_a_layer_may_serve_as_softmax():
    v = inputs(30)
    wrappers = [DropConnect(dense(activation, units=5)) for activation in ("softmax", keras.layers.Softmax())]
    one, other = (to_numpy(wrapper(v)) for wrapper in wrappers)
    np.testing.assert_allclose(one, other, rtol=1e-6)
    np.testing.assert_allclose(one.sum(-1), 1, rtol=1e-5)


def masks_of(wrapper, shape):
    """Kernel and bias masks of one call: the gradient of a linear layer by its input shows the kept weights."""
    y, gradient = value_and_gradient(
        lambda x: wrapper(x, training=True), np.zeros(shape, "float32"), np.ones((*shape[:-1], 1), "float32")
    )
    return y, gradient


def test_each_example_has_its_own_mask_and_its_positions_share_it():
    ones = {"kernel_initializer": "ones", "bias_initializer": "ones"}
    y, kept = masks_of(DropConnect(keras.layers.Dense(1, **ones), 0.5, seed=1), (6, 4, 50))
    assert set(np.unique(kept)) == {0, 1}
    assert (np.ptp(kept, axis=1) == 0).all() and (np.ptp(y, axis=1) == 0).all()
    assert len({mask.tobytes() for mask in kept[:, 0]}) == 6
    # The bias is dropped too.
    y, _ = masks_of(DropConnect(keras.layers.Dense(1, **ones), 0.5, seed=1), (2000, 3))
    assert set(np.unique(y)) == {0, 1}
    assert abs(y.mean() - 0.5) < SIGMAS * 0.5 / np.sqrt(2000)


@pytest.mark.parametrize("per_example", [False, True])
def test_one_mask_for_the_batch(per_example):
    wrapper = DropConnect(keras.layers.Dense(1, kernel_initializer="ones"), 0.5, per_example=per_example, seed=1)
    _, kept = masks_of(wrapper, (6, 50))
    assert len({mask.tobytes() for mask in kept}) == (6 if per_example else 1)
    assert 0 < kept.mean() < 1


@pytest.mark.parametrize(
    "layer, shape",
    [
        (lambda **kwargs: keras.layers.Conv1D(3, 2, **kwargs), (2, 7, 4)),
        (lambda **kwargs: keras.layers.Conv2D(3, (2, 3), data_format="channels_last", **kwargs), (2, 6, 5, 4)),
        (lambda **kwargs: keras.layers.Conv3D(3, 2, data_format="channels_last", **kwargs), (2, 3, 4, 5, 2)),
        (lambda **kwargs: keras.layers.EinsumDense("abc,cd->abd", (None, 3), bias_axes="d", **kwargs), (2, 5, 4)),
    ],
    ids=["Conv1D", "Conv2D", "Conv3D", "EinsumDense"],
)
def test_other_layers_have_one_mask_for_the_batch(layer, shape):
    wrapper = DropConnect(layer(activation="relu", bias_initializer="ones"), 0.3, seed=1)
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    twice = np.concatenate([x, x])
    y = train(wrapper, twice)
    np.testing.assert_allclose(y[: len(x)], y[len(x) :], atol=1e-5)
    calls = np.stack([train(wrapper, x) for _ in range(200)])
    inference = to_numpy(wrapper(x))
    # Few weights add up to something less Gaussian than in a Dense; what is not the mean is farther off still.
    error = SIGMAS * calls.std(0) / np.sqrt(200) + 0.06 * calls.std(0).max()
    assert (abs(calls.mean(0) - inference) < error).all()
    wrapper.rate = 0
    np.testing.assert_array_equal(to_numpy(wrapper(x)), to_numpy(wrapper.layer(x)))
    np.testing.assert_allclose(train(wrapper, x), to_numpy(wrapper.layer(x)), atol=1e-6)


def gradients(function, variables):
    """`function()` and its gradients by the variables."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = function()
        return [to_numpy(g) for g in tape.gradient(loss, [v.value for v in variables])]
    if BACKEND == "jax":
        import jax

        def loss(values):
            with keras.StatelessScope(list(zip(variables, values, strict=True))):
                return function()

        return [to_numpy(g) for g in jax.grad(loss)([v.value for v in variables])]
    function().backward()
    return [to_numpy(v.value.grad) for v in variables]


@pytest.mark.parametrize("chunk", [2**20, 100])
def test_the_gradient_reaches_the_kept_weights_and_no_others(chunk, monkeypatch):
    monkeypatch.setattr("keras_dropouts.layers.drop_connect.CHUNK", chunk)
    v = inputs(6, examples=7)
    wrapper = DropConnect(keras.layers.Dense(5, kernel_initializer="ones", bias_initializer="ones"), 0.4, seed=2)
    wrapper.build(v.shape)
    upstream = np.random.default_rng(3).standard_normal((7, 5)).astype("float32")

    def again(x):
        wrapper._random_state.write(calls=0)
        return wrapper(x, training=True)

    kernel, bias = gradients(lambda: ops.sum(ops.multiply(again(v), upstream)), wrapper.trainable_variables)
    # One unit at a time: the gradient by an input is that input's kept weight.
    masks = np.stack([value_and_gradient(again, v, np.tile(np.eye(5)[j], (7, 1)))[1] for j in range(5)], 2)
    kept_bias = to_numpy(again(np.zeros_like(v)))
    assert set(np.unique(masks)) == set(np.unique(kept_bias)) == {0, 1}
    np.testing.assert_allclose(kernel, np.einsum("bi,bio,bo->io", v, masks, upstream), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(bias, (kept_bias * upstream).sum(0), rtol=1e-4, atol=1e-5)


def bytes_of_a_training_step(wrapper, x):
    """What the backend itself counts: temporary memory (JAX), or what is kept for the backward pass."""
    if BACKEND == "jax":
        import jax

        def loss(trained, x):
            y, _ = wrapper.stateless_call(trained, [v.value for v in wrapper.non_trainable_variables], x, training=True)
            return ops.sum(y**2)

        step = jax.jit(jax.grad(loss)).lower([v.value for v in wrapper.trainable_variables], x)
        return step.compile().memory_analysis().temp_size_in_bytes
    if BACKEND == "torch":
        import torch

        kept = {}

        def keep(tensor):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            y = wrapper(x, training=True)
        assert y.requires_grad
        return sum(kept.values())
    import tensorflow as tf

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            y = tf.reduce_sum(wrapper(x, training=True) ** 2)
        return tape.gradient(y, [v.value for v in wrapper.trainable_variables])

    graph = step.get_concrete_function(tf.TensorSpec(x.shape)).graph
    forward, backward = (op for op in graph.get_operations() if "While" in op.type)
    total = 0
    for loop in (forward, backward):
        body = graph._get_function(loop.get_attr("body").name).graph
        pushed = [op.inputs[-1] for op in body.get_operations() if op.type == "TensorListPushBack"]
        # A tensor from outside the loop is pushed by reference, whatever it measures.
        inside = [t for t in pushed if t.op.type != "Placeholder"]
        total += len(x) * sum(4 * t.shape.num_elements() for t in inside)
    return total


def test_a_training_step_never_holds_the_masked_weights_of_the_batch(monkeypatch):
    monkeypatch.setattr("keras_dropouts.layers.drop_connect.CHUNK", 1)
    x = inputs(60, examples=50)
    wrapper = DropConnect(keras.layers.Dense(70))
    wrapper.build(x.shape)
    wrapper(x, training=True)
    assert bytes_of_a_training_step(wrapper, x) < 4 * 50 * 60 * 70 / 4


def test_the_masks_do_not_depend_on_the_chunks(monkeypatch):
    v = np.ones((7, 6), "float32")
    outputs = []
    for chunk in (2**20, 100, 1):
        monkeypatch.setattr("keras_dropouts.layers.drop_connect.CHUNK", chunk)
        wrapper = DropConnect(keras.layers.Dense(5, kernel_initializer="ones"), 0.4, seed=2)
        outputs.append(train(wrapper, v))
    np.testing.assert_array_equal(outputs[0], outputs[1])
    np.testing.assert_array_equal(outputs[0], outputs[2])
    assert train(wrapper, v[:0]).shape == (0, 5)


def test_the_weights_stay_the_wrapped_layers_own(tmp_path):
    model = keras.Sequential([keras.Input((6,)), DropConnect(keras.layers.Dense(5, name="mine"), 0.5)])
    bare = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5, name="mine")])
    assert [w.path.split("/")[-2:] for w in model.weights] == [["mine", "kernel"], ["mine", "bias"]]
    wrapper = model.layers[0]
    assert [w is v for w, v in zip(model.weights, wrapper.layer.weights, strict=True)] == [True, True]
    bare.set_weights(model.get_weights())
    wrapper.rate = 0
    v = inputs(6)
    np.testing.assert_array_equal(to_numpy(model(v)), to_numpy(bare(v)))
    keras.Sequential([keras.Input((6,)), wrapper.layer]).save_weights(tmp_path / "bare.weights.h5")
    bare.set_weights([w * 0 for w in bare.get_weights()])
    bare.load_weights(tmp_path / "bare.weights.h5")
    np.testing.assert_array_equal(to_numpy(model(v)), to_numpy(bare(v)))


def test_a_built_layer_may_be_wrapped():
    v = inputs()
    layer = dense("relu")
    expected = to_numpy(layer(v))
    np.testing.assert_array_equal(to_numpy(DropConnect(layer, 0)(v)), expected)


def test_the_activity_regularizer_is_not_lost():
    layer = keras.layers.Dense(5, "relu", kernel_initializer="ones", activity_regularizer=keras.regularizers.L2(0.1))
    wrapper = DropConnect(layer, 0)
    x = np.ones((2, 3), "float32")
    wrapper(x)
    (loss,) = map(to_numpy, wrapper.losses)
    layer(x)
    (expected,) = map(to_numpy, layer.losses)
    assert expected > 0
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_squares_do_not_overflow_in_half_precision():
    v = np.full((1, 8), 1000, "float32")
    initializer = keras.initializers.Constant(0.01)
    wrapper = DropConnect(keras.layers.Dense(2, "relu", kernel_initializer=initializer, dtype="mixed_float16"), 0.5)
    # Mean 40 and standard deviation 14.1 are 2.83 apart: relu adds 14.1 * 0.00068 or so.
    np.testing.assert_allclose(to_numpy(wrapper(v)), 40.01, atol=0.05)


wrappers = pytest.mark.parametrize(
    "wrapper",
    # Whose masks do not depend on the kernel: a unit is kept as often as not.
    [lambda layer: DropConnect(layer, seed=5), lambda layer: Standout(layer, alpha=0.0, seed=1)],
    ids=["DropConnect", "Standout"],
)


def answers(layer, x):
    """In training, with the same masks each time, and at inference."""
    layer._random_state.write(calls=0)
    return [train(layer, x), to_numpy(layer(x))]


@wrappers
@pytest.mark.parametrize(("mode", "levels"), [("int8", 127), ("int4", 7), ("float8", 8)])
def test_a_quantized_kernel_is_off_by_its_steps(wrapper, mode, levels, tmp_path):
    x = inputs(6, examples=9)
    model = keras.Sequential([keras.Input((6,)), wrapper(keras.layers.Dense(3, "relu", bias_initializer="ones"))])
    layer = model.layers[0]
    before, kernel = answers(layer, x), abs(layer.layer.get_weights()[0])
    with warnings.catch_warnings():
        # That the wrapper cannot be quantized itself.
        warnings.simplefilter("ignore")
        model.quantize(mode)
    # What float8 rounds by is in proportion to the number; an output changes by no more than the sum that it reads.
    steps = (kernel if mode == "float8" else kernel.max(0, keepdims=True) * np.ones_like(kernel)) / levels
    after = answers(layer, x)
    for one, other in zip(before, after, strict=True):
        assert (one != other).any()
        assert (abs(one - other) <= abs(x) @ (steps / 2) + 1e-5).all()
    model.compile(keras.optimizers.SGD(0.0), "mse")
    assert np.isfinite(model.fit(x, np.zeros((9, 3)), verbose=0).history["loss"]).all()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras").layers[0]
    assert loaded.layer.quantization_mode == mode
    for one, other in zip(answers(loaded, x), answers(layer, x), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@wrappers
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: keras.layers.Dense(3, "tanh"), (5, 6)),
        (lambda: keras.layers.Conv2D(3, 2, activation="tanh", data_format="channels_last"), (2, 4, 5, 2)),
        (lambda: keras.layers.EinsumDense("abc,cd->abd", (None, 3), bias_axes="d", activation="tanh"), (2, 5, 4)),
    ],
    ids=["Dense", "Conv2D", "EinsumDense"],
)
def test_with_lora_the_merged_kernel_is_dropped_from_and_its_factors_are_trained(wrapper, make, shape, tmp_path):
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    model = keras.Sequential([keras.Input(shape[1:]), wrapper(make())])
    layer = model.layers[0]
    # After wrapping; another may have it before.
    layer.layer.enable_lora(2)
    layer.layer.lora_kernel_b.assign(np.random.default_rng(1).standard_normal(layer.layer.lora_kernel_b.shape))
    merged = wrapper(make())
    merged.build(shape)
    merged.layer.set_weights([to_numpy(layer.layer.kernel), to_numpy(layer.layer.bias)])
    for one, other in zip(answers(layer, x), answers(merged, x), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras").layers[0]
    for one, other in zip(answers(loaded, x), answers(layer, x), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    before = {w.path: to_numpy(w) for w in model.weights}
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.train_on_batch(x, np.zeros_like(to_numpy(model(x))))
    moved = {w.name for w in model.weights if (to_numpy(w) != before[w.path]).any()}
    assert moved == {"lora_kernel_a", "lora_kernel_b", "bias"}


SPATIAL = {"data_format": "channels_last", "activation": "relu"}


@wrappers
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda **kwargs: keras.layers.Dense(3, "relu", **kwargs), (2, 5)),
        (lambda **kwargs: keras.layers.EinsumDense("abc,cd->abd", (None, 3), activation="relu", **kwargs), (2, 5, 4)),
        (lambda **kwargs: keras.layers.Conv1D(3, 2, padding="causal", activation="relu", **kwargs), (2, 7, 4)),
        (lambda **kwargs: keras.layers.Conv2DTranspose(3, 2, **SPATIAL, **kwargs), (2, 3, 5, 4)),
        (lambda **kwargs: keras.layers.DepthwiseConv2D(2, **SPATIAL, **kwargs), (2, 3, 5, 4)),
    ],
    ids=["Dense", "EinsumDense", "Conv1D", "Conv2DTranspose", "DepthwiseConv2D"],
)
def test_weights_of_narrow_types(wrapper, make, shape, dtype):
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    narrow, wide = wrapper(make(dtype=dtype)), wrapper(make())
    for layer in (narrow, wide):
        layer.build(shape)
    wide.layer.set_weights([to_numpy(w) for w in narrow.layer.weights])
    for one, other in zip(answers(narrow, x), answers(wide, x), strict=True):
        np.testing.assert_allclose(one, other, atol=0.03)
    assert keras.backend.standardize_dtype(narrow(x).dtype) == dtype


@wrappers
def test_integers_are_taken_as_the_wrapped_layer_takes_them(wrapper):
    x = np.arange(12).reshape(2, 6)
    layer = wrapper(dense("relu"))
    for one, other in zip(answers(layer, x), answers(layer, x.astype("float32")), strict=True):
        np.testing.assert_array_equal(one, other)


@wrappers
def test_inputs_that_the_wrapped_layer_refuses_are_refused(wrapper):
    with pytest.raises(ValueError, match="expected min_ndim=2, found ndim=1"):
        wrapper(dense("relu"))(np.ones(4, "float32"))
    layer = wrapper(dense("relu"))
    layer(np.ones((2, 4), "float32"))
    with pytest.raises(ValueError, match="expected axis -1 of input shape to have value 4"):
        layer(np.ones((2, 5), "float32"))


class TenTimes(keras.layers.Dense):
    def call(self, inputs, training=None):
        return 10 * super().call(inputs)


class OwnKernel(keras.layers.Dense):
    @property
    def kernel(self):
        return 10 * super().kernel


class OwnConvolution(keras.layers.Conv1D):
    def convolution_op(self, inputs, kernel):
        return 10 * super().convolution_op(inputs, kernel)


class OwnDefaults(keras.layers.Dense):
    def __init__(self, units, activation="tanh", **kwargs):
        super().__init__(units, activation, **kwargs)


def test_a_subclass_that_computes_the_same_may_be_wrapped():
    x = inputs(6)
    layer = OwnDefaults(3)
    np.testing.assert_allclose(to_numpy(DropConnect(layer, 0)(x)), to_numpy(layer(x)), rtol=1e-6)


@wrappers
@pytest.mark.parametrize(
    "layer",
    [
        "Dense",
        keras.layers.Dense,
        keras.layers.Flatten(),
        keras.layers.LayerNormalization(),
        keras.layers.LSTM(3),
        keras.layers.LSTMCell(3),
        keras.layers.SeparableConv1D(3, 2),
        keras.layers.SpectralNormalization(keras.layers.Dense(3)),
        TenTimes(3),
        OwnKernel(3),
        OwnConvolution(3, 2),
    ],
    ids=lambda layer: getattr(layer, "name", str(layer)),
)
def test_a_layer_that_may_do_something_else_with_its_kernel_is_refused(wrapper, layer):
    with pytest.raises(ValueError, match=r"`layer` must be a keras.layers.Dense, .* Received: layer="):
        wrapper(layer)


@wrappers
def test_what_quantization_leaves_no_kernel_of_is_refused(wrapper):
    einsum = keras.layers.EinsumDense("ab,bc->ac", 3)
    einsum.build((2, 5))
    einsum.quantize("int8")
    uncalibrated = keras.layers.Dense(3)
    uncalibrated.build((2, 5))
    uncalibrated.quantize("gptq", config=keras.quantizers.GPTQConfig(dataset=None, tokenizer=None))
    for layer, mode in ((einsum, "int8"), (uncalibrated, "gptq")):
        with pytest.raises(ValueError, match=f"(?s)A quantized `layer` must be .*quantization_mode='{mode}'"):
            wrapper(layer)(np.ones((2, 5), "float32"))


@pytest.mark.parametrize("wrapper", [DropConnect, Standout])
def test_a_wrapped_layer_is_not_wrapped_again(wrapper):
    for inner in (DropConnect, Standout):
        with pytest.raises(ValueError, match=f"in {inner.__name__} already.* Wrap the layer inside, `layer.layer`"):
            wrapper(inner(keras.layers.Dense(3)))


@pytest.mark.parametrize("rate", [-0.1, 1.1, np.nan, True, "0.5", None], ids=repr)
def test_a_bad_rate_is_refused(rate):
    with pytest.raises(ValueError, match=r"`rate` must be.*Received: rate="):
        DropConnect(keras.layers.Dense(3), rate)


def test_a_bad_choice_is_refused():
    with pytest.raises(ValueError, match=r"`per_example` must be True or False\. Received: per_example=1"):
        DropConnect(keras.layers.Dense(3), per_example=1)


def test_a_rate_set_late_and_a_schedule_take_effect():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.0, 1.0])
    x = np.ones((4, 8), "float32")
    model = keras.Sequential(
        [keras.Input((8,)), DropConnect(keras.layers.Dense(1, kernel_initializer="ones"), schedule, name="it")]
    )
    model.compile(keras.optimizers.SGD(0.0), "mae")

    def losses():
        return [model.fit(x, np.zeros((4, 1)), batch_size=4, verbose=0).history["loss"][0] for _ in range(3)]

    assert losses() == [8, 8, 0]
    model.get_layer("it").rate = 0
    assert losses() == [8, 8, 8]
