"""What only one framework's way of checkpointing shows; that masks are repeated at all is a law."""

import contextlib

import keras
import numpy as np
import pytest
from backend import BACKEND, value_and_gradient
from keras import ops
from test_laws import normal_inputs

import keras_dropouts as kd

if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax
elif BACKEND == "torch":
    import torch
    from torch.utils.checkpoint import checkpoint

X, UPSTREAM = normal_inputs((3, 7), seed=1), normal_inputs((3, 7), seed=2)


def thrice(layer, inner=lambda function: function):
    """A function that calls the layer before, in and after an inner region."""
    within = inner(lambda x: ops.sin(layer(x, training=True)))
    return lambda x: layer(ops.exp(within(layer(x, training=True))), training=True)


def assert_as_plain(functions, layer):
    """The functions, each of which calls `layer` three times, one after the other, are what `thrice` of its twin is."""
    twin = type(layer).from_config(layer.get_config())
    for function in functions:
        outcomes = (value_and_gradient(f, X, UPSTREAM) for f in (function, thrice(twin)))
        for one, other in zip(*outcomes, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert layer._random_state.read().tolist() == twin._random_state.read().tolist()


def test_regions_within_regions():
    layer = kd.GaussianDropout(0.3, seed=5)
    assert_as_plain([keras.remat(thrice(layer, keras.remat))] * 2, layer)


def test_calls_at_inference_repeat_nothing():
    """Also where there was a call in training of the same shape, by the same arguments, from the same generator."""
    layer = kd.Dropout(0.5, seed=3)
    ones = np.ones((2, 5), "float32")
    for training in (True, False) * 3:
        if BACKEND == "torch":
            torch.manual_seed(0)
        y, gradient = value_and_gradient(
            keras.remat(lambda x: x * layer(x, training=training)),  # noqa: B023
            ones,
            ones,
        )
        np.testing.assert_array_equal(gradient, 2 * y)
        assert (y == 1).all() == (not training)
    assert layer._random_state.read()[1] == 3


class Region(keras.layers.Layer):
    """A block whose layers learn from Keras alone whether the model trains."""

    def __init__(self, remat, times=1):
        super().__init__()
        self.region, self.times = remat(self.through), times
        self.dense = keras.layers.Dense(7, kernel_initializer=keras.initializers.GlorotUniform(3))
        self.before, self.after = kd.Dropout(0.5, seed=3), kd.SpatialDropout1D(0.3, seed=4)

    def build(self, input_shape):
        self.dense.build(input_shape)

    def through(self, x):
        return self.after(self.dense(self.before(x)))

    def call(self, x):
        # One function, made once and called more than once.
        for _ in range(self.times):
            x = self.region(x)
        return x


def weights_after_fit(layers, **kwargs):
    model = keras.Sequential([keras.Input((5, 7)), *layers])
    model.compile(keras.optimizers.SGD(0.01), "mse", **kwargs)
    x = normal_inputs((9, 5, 7))
    model.fit(x, x, batch_size=4, epochs=2, shuffle=False, verbose=0)
    values = [v.numpy() if BACKEND != "torch" else ops.convert_to_numpy(v) for v in model.variables]
    assert all(np.isfinite(value).all() for value in values)
    return values


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_fit_of_a_rematerialized_block_is_that_of_the_block(run_eagerly):
    def fitted(remat):
        return weights_after_fit([Region(remat), Region(remat, times=2)], run_eagerly=run_eagerly)

    for one, other in zip(fitted(keras.remat), fitted(lambda function: function), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "scope",
    [
        {"mode": "full"},
        {"mode": "list_of_layers", "layer_names": ["it"]},
        {"mode": "larger_than", "output_size_threshold": 1},
    ],
    ids=lambda scope: scope["mode"],
)
def test_a_remat_scope_around_layers(scope):
    def fitted(scope):
        # Made outside: in a graph of TensorFlow, and on JAX, Keras cannot call a Dense in the scope.
        dense = keras.layers.Dense(7, "relu", kernel_initializer=keras.initializers.GlorotUniform(3))
        with scope:
            layers = [kd.Dropout(0.5, seed=3, name="it"), kd.Standout(dense, seed=4)]
        return weights_after_fit(layers)

    for one, other in zip(fitted(keras.RematScope(**scope)), fitted(contextlib.nullcontext()), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


if BACKEND == "tensorflow":

    @pytest.mark.parametrize("jit_compile", [None, True])
    def test_recompute_grad_in_a_graph(jit_compile):
        layer = kd.GaussianDropout(0.3, seed=5)
        assert_as_plain([tf.function(tf.recompute_grad(thrice(layer)), jit_compile=jit_compile)] * 2, layer)

    @pytest.mark.parametrize("loop", [False, True])
    def test_what_a_recomputation_cannot_repeat_is_refused(loop):
        # And a function without arguments, which all would be taken for one.
        layer, x = kd.Dropout(0.5), tf.ones((2, 3))

        def drop(x):
            return layer(x, training=True)

        def drop_twice(x):
            return tf.while_loop(lambda i, x: i < 2, lambda i, x: (i + 1, drop(x)), [0, x])[1]

        function = tf.function(tf.recompute_grad(drop_twice)) if loop else tf.recompute_grad(tf.function(drop))
        with pytest.raises(ValueError, match="in a loop, a condition"):
            function(x)
        with pytest.raises(ValueError, match=r"Received: .* 0 arguments by position"):
            tf.recompute_grad(lambda: drop(x))()

elif BACKEND == "jax":

    def test_mapping_within_a_checkpoint():
        layer, twin, x = kd.Dropout(0.5, seed=5), kd.Dropout(0.5, seed=5), np.ones((3, 7), "float32")

        def mapped(layer):
            return jax.vmap(lambda x: layer(x[None], training=True)[0])

        def of_gradient(layer):
            return jax.grad(lambda x: (layer(x, training=True) ** 2).sum())

        for make in (mapped, of_gradient):
            outcomes = [
                value_and_gradient(function, x, np.ones_like(x))
                for function in (jax.checkpoint(make(layer)), make(twin))
            ]
            for one, other in zip(*outcomes, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-6)
            assert layer._random_state.read().tolist() == twin._random_state.read().tolist()

    def test_checkpoint_in_jit():
        layer, twin = (kd.GaussianDropout(0.3, seed=5) for _ in range(2))

        def step(layer, wrap, state):
            def loss(x):
                with keras.StatelessScope([(layer._random_state.state, state)]) as scope:
                    y = wrap(thrice(layer, wrap))(x)
                return (y * UPSTREAM).sum(), scope.get_current_value(layer._random_state.state)

            return jax.value_and_grad(loss, has_aux=True)(X)

        states = layer._random_state.state.value
        results = [
            jax.jit(step, static_argnums=(0, 1))(part, wrap, states)
            for part, wrap in ((layer, jax.checkpoint), (twin, lambda function: function))
        ]
        for one, other in zip(*map(jax.tree.leaves, results), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)

else:
    # Of the inner region, which the outer one runs without gradients first.
    @pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
    @pytest.mark.parametrize("use_reentrant", [False, True])
    def test_checkpoint(use_reentrant):
        def wrap(function):
            return lambda x: checkpoint(function, x, use_reentrant=use_reentrant)

        layer = kd.GaussianDropout(0.3, seed=5)
        assert_as_plain([wrap(thrice(layer, wrap))] * 2, layer)

    @pytest.mark.parametrize("use_reentrant", [False, True])
    @pytest.mark.parametrize("compiled", ["the checkpoint", "what it calls"])
    def test_checkpoint_and_compiled_graphs(compiled, use_reentrant):
        layer, x = kd.Dropout(0.5, seed=5), torch.ones(4, 64, requires_grad=True)

        def call(x):
            return torch.sin(layer(x, training=True))

        if compiled == "the checkpoint":
            function = torch.compile(lambda x: checkpoint(call, x, use_reentrant=use_reentrant), backend="aot_eager")
        else:
            within = torch.compile(call, backend="aot_eager")
            function = lambda x: checkpoint(within, x, use_reentrant=use_reentrant)  # noqa: E731
        for calls in (1, 2):
            x.grad, y = None, function(x)
            y.sum().backward()
            assert ((x.grad != 0) == (y != 0)).all()
            assert layer._random_state.read()[1] == calls

    def test_a_graph_may_be_run_backward_twice():
        layer, x = kd.Dropout(0.5, seed=5), torch.ones(4, 64, requires_grad=True)
        y = checkpoint(lambda x: torch.sin(layer(x, training=True)), x, use_reentrant=False)
        gradients = [torch.autograd.grad(y.sum(), x, retain_graph=True)[0] for _ in range(2)]
        assert all(((gradient != 0) == (y != 0)).all() for gradient in gradients)

    def test_a_checkpoint_that_does_not_restore_the_generator_is_refused():
        layer, x = kd.Dropout(0.5, seed=5), torch.ones(4, 64, requires_grad=True)
        y = checkpoint(lambda x: layer(x, training=True), x, use_reentrant=False, preserve_rng_state=False)
        with pytest.raises(RuntimeError, match="preserve_rng_state=True"):
            y.sum().backward()

    def test_only_checkpoints_take_numbers_from_the_default_generator():
        layer, x, before = kd.Dropout(0.5), torch.ones(4, 64, requires_grad=True), torch.get_rng_state()
        layer(x, training=True).sum().backward()
        layer(x)
        assert (torch.get_rng_state() == before).all()
