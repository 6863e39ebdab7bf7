"""What makes the layers cheap, by what the frameworks themselves count: no clock is asked."""

import collections

import keras
import numpy as np
import pytest
from backend import BACKEND, to_numpy
from catalog import ROWS, rows
from memory import kept_bytes

from keras_dropouts.random import bits, compilation

if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax
else:
    import torch


def inputs(row):
    x = keras.ops.convert_to_tensor(np.random.default_rng(0).standard_normal(row.shape), "float32")
    return row.inputs(x)


# What a wrapped layer computes with is kept.
@rows(wrapped=False)
def test_nothing_is_kept_for_the_backward_pass(row):
    # The key and the rate; a mask of one byte for each of the 128 samples would not fit.
    assert 0 < kept_bytes(row.make(0.5), (128, *row.shape[1:]), row.inputs) <= 64


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
@pytest.mark.parametrize("in_graphs", [False, True])
def test_batches_of_many_sizes_share_few_compiled_kernels(monkeypatch, in_graphs):
    layer, plain, sizes = ROWS[0].make(0.5), bits._keep, set()

    def keep(*args):
        sizes.add(tuple(int(tf.get_static_value(n)) for n in args[-2:]))
        return plain(*args)

    monkeypatch.setattr(bits, "_keep", keep)
    compilation._batches.cache_clear()
    for n in range(1, 31):
        call = lambda x: layer(x, training=True)  # noqa: E731
        (tf.function(call) if in_graphs else call)(tf.ones((n, 16)))
    # In graphs also those of the first four batches, drawn and selected by one, and of four more, drawn alone.
    assert len(sizes) == 1 + 8 * in_graphs


@pytest.mark.skipif(BACKEND == "jax", reason="its programs are read by TensorFlow")
# That PyTorch's tracer is old, and takes for constants what is constant here.
@pytest.mark.filterwarnings("ignore")
@rows()
def test_inference_is_plain_operations(row):
    """Of these ONNX and LiteRT files are made, which know no calls of compiled functions."""
    layer, x = row.make(0.5), inputs(row)
    expected = to_numpy(layer(x))
    if BACKEND == "tensorflow":
        spec = keras.tree.map_structure(lambda x: tf.TensorSpec((None, *x.shape[1:])), x)
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
