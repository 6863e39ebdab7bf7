"""What makes the layers cheap, by what the frameworks themselves count: no clock is asked."""

import collections

import keras
import numpy as np
import pytest
from backend import BACKEND, to_numpy
from catalog import ROWS, rows
from memory import kept_bytes

from keras_dropouts import Dropout, random
from keras_dropouts.random import compilation

if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax
else:
    import torch


def inputs(row):
    x = keras.ops.convert_to_tensor(np.random.default_rng(0).standard_normal(row.shape), "float32")
    return row.inputs(x)


# What a layer computes with is kept.
@rows(wrapped=False, called=False)
def test_nothing_is_kept_for_the_backward_pass(row):
    # The key and the rate; a mask of one byte for each of the 128 samples would not fit.
    kept = kept_bytes(row.make(0.5), (128, *row.shape[1:]), row.inputs)
    # The gradient of a sum may need nothing.
    assert kept <= 64 and (kept > 0 or row.adds)


@rows(rated=True)
def test_another_call_and_another_rate_compile_nothing_new(row):
    x, one, other = inputs(row), row.make(0.25, seed=1), row.make(0.5, seed=2)
    if BACKEND == "tensorflow":
        step = tf.function(lambda: [layer(x, training=True) for layer in (one, other)])
        called = [op for op in step.get_concrete_function().graph.get_operations() if "PartitionedCall" in op.type]
        calls = collections.Counter(op.get_attr("f").name for op in called)
        assert calls and all(n > 1 for n in calls.values())
    elif BACKEND == "jax":
        events = []
        jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: events.append(event))
        jax.jit(lambda: 0)()
        # Or else no event would be no answer.
        assert any("compile" in event for event in events)
        for _ in range(2):
            one(x, training=True)
        events.clear()
        for layer in (one, other):
            layer(x, training=True)
        jax.monitoring.clear_event_listeners()
        assert not [event for event in events if "compile" in event]
    else:
        graphs = []
        torch._dynamo.reset()

        def backend(graph, _):
            graphs.append(graph)
            return graph

        call = torch.compile(lambda x: one(x, training=True), backend=backend, fullgraph=True)
        one(x)
        call(x)
        setattr(one, one.parameter, 0.5)
        call(x)
        assert len(graphs) == 1


@pytest.mark.skipif(BACKEND != "tensorflow", reason="PyTorch compiles for no size, JAX any program for each")
@pytest.mark.parametrize("how, small, large", [("eager", 1, 5), ("open", 1, 10), ("traced", 5, 12)])
def test_batches_of_many_sizes_share_few_programs(how, small, large):
    """What is drawn here says by which program, for how many samples and blocks."""

    @compilation.kernel()
    def program(key, samples, blocks):
        size = blocks[0] if isinstance(blocks, tuple) else blocks
        return tf.fill((samples, 1, size), samples * 2**20 + size)

    numbers = [13 * n % 211 for n in range(1, 25)]
    for size, programs in ((16, small), (4096, large)):
        call = drawn = lambda x, size=size: compilation.run(program, random.key(1), keras.ops.shape(x)[0], size // 8)
        if how != "eager":
            call = tf.function(drawn, [tf.TensorSpec((None,))] if how == "open" else None)
        assert len({int(call(tf.ones(n))[0, 0, 0]) for n in numbers}) == programs


@pytest.mark.skipif(BACKEND != "tensorflow", reason="PyTorch compiles for no size, JAX any program for each")
def test_large_samples_of_many_numbers_share_few_programs():
    @compilation.fused
    def rows(x, by_sample, one):
        return x * 0 + by_sample + one + tf.cast(tf.shape(x)[0], "float32")

    call = tf.function(lambda x, y: rows(x, y, tf.ones((1, 1))), [tf.TensorSpec((None, n)) for n in (4096, 1)])
    numbers, found = [13 * n % 211 for n in range(1, 25)], set()
    for n in numbers:
        y = tf.range(n, dtype="float32")[:, None]
        drawn = (call(tf.ones((n, 4096)), y) - y - 1).numpy()
        assert drawn.shape == (n, 4096) and n <= drawn[0, 0] == drawn.max() == drawn.min() <= 1.5 * n
        found.add(int(drawn[0, 0]))
    assert len(found) == 10
    # A first axis of which it is known only now that it is 1.
    np.testing.assert_array_equal(call(tf.ones((5, 4096)), tf.ones((1, 1))), np.full((5, 4096), 8.0))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the others have no such graphs")
def test_no_shape_and_no_number_has_a_graph_of_its_own():
    layers = [(row.make(0.5), row.inputs) for row in ROWS if not row.wrapped and row.shape == (3, 5, 7)]

    def call(n):
        for layer, inputs_of in layers:
            layer(inputs_of(tf.ones((n, 5, 7))), training=True)
        Dropout(0.5)(tf.ones(n), training=True)
        random.multiply_where(np.ones(n, bool), 1 + n, tf.ones(n))
        random.multiply_where(tf.ones(n, bool), np.float32(1 + n), tf.ones(n))

    call(3)
    before = compilation._graph_of.cache_info().currsize
    for n in range(4, 12):
        call(n)
    assert compilation._graph_of.cache_info().currsize == before


@pytest.mark.skipif(BACKEND == "jax", reason="its programs are read by TensorFlow")
# That PyTorch's tracer is old, and takes for constants what is constant here.
@pytest.mark.filterwarnings("ignore")
@rows()
def test_inference_is_plain_operations(row):
    """Of these ONNX and LiteRT files are made, which know no calls of compiled functions."""
    layer, x = row.make(0.5), inputs(row)
    expected = to_numpy(layer(x))
    if BACKEND == "tensorflow":
        spec = keras.tree.map_structure(lambda x: tf.TensorSpec((None, *x.shape[1:]), x.dtype), x)
        served = tf.function(lambda x: layer(x, training=False), [spec])
        types = {op.type for op in served.get_concrete_function().graph.get_operations()}
        assert types and not [name for name in types if "Call" in name or "Xla" in name]
    else:
        served = torch.jit.trace(layer, (x,), check_trace=False)
    np.testing.assert_allclose(to_numpy(served(x)), expected, rtol=1e-5)


@rows()
def test_nothing_visits_the_host(row):
    layer, x = row.make(0.5), inputs(row)
    if BACKEND == "tensorflow":
        graph = tf.function(lambda: layer(x, training=True)).get_concrete_function().graph
        types = {op.type for op in graph.get_operations()}
        types |= {node.op for function in graph.as_graph_def().library.function for node in function.node_def}
        assert types and not [name for name in types if "PyFunc" in name]
    elif BACKEND == "jax":
        layer(x)
        variables = [[v.value for v in vs] for vs in (layer.trainable_variables, layer.non_trainable_variables)]
        step = jax.jit(lambda variables, x: layer.stateless_call(*variables, x, training=True))
        text = step.lower(variables, x).as_text()
        assert "func.func" in text and "callback" not in text
    else:
        called = []

        class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                called.append(str(function))
                return function(*args, **(kwargs or {}))

        with Recorder():
            layer(x, training=True)
        # What `item()`, `bool()` and `int()` of a tensor come to.
        assert called and "aten._local_scalar_dense.default" not in called
