"""EmbeddingDropout against rows of a table dropped one by one, and what it leaves to the layer it wraps."""

import keras
import numpy as np
import oracle
import pytest
from backend import BACKEND, to_numpy, train
from keras import layers, ops

from keras_dropouts import EmbeddingDropout

WORDS, FEATURES = 11, 3
INDICES = np.random.default_rng(0).integers(0, WORDS, (6, 20))


def embedding(**kwargs):
    table = np.random.default_rng(1).standard_normal((WORDS, FEATURES)).astype("float32")
    return layers.Embedding(WORDS, FEATURES, keras.initializers.Constant(table), **kwargs), table


@pytest.mark.parametrize("per_sequence", [False, True])
def test_the_oracle_drops_the_same_rows(per_sequence):
    inner, table = embedding()
    layer = EmbeddingDropout(inner, 0.5, per_sequence, seed=3)
    for call in range(2):
        y = train(layer, INDICES)
        keep = oracle.keep_mask(3, call, (6 if per_sequence else 1, WORDS), 0.5)
        for sample, sequence in enumerate(INDICES):
            dropped = np.where(keep[sample if per_sequence else 0][:, None], table * 2, 0)
            np.testing.assert_array_equal(y[sample], dropped[sequence])
    np.testing.assert_array_equal(to_numpy(layer(INDICES)), table[INDICES])


def test_the_gradient_is_that_of_the_rows_that_are_kept():
    inner, _ = embedding()
    layer = EmbeddingDropout(inner, 0.5, seed=3)
    layer.build(INDICES.shape)
    before = layer.get_weights()[0]
    model = keras.Sequential([layer])
    # A loss of which the gradient is the number of times that a word is there, times 2 where it is kept.
    model.compile(keras.optimizers.SGD(1.0), lambda y, out: ops.sum(out))
    model.train_on_batch(INDICES, np.zeros(1))
    counts = np.bincount(INDICES.ravel(), minlength=WORDS)
    keep = oracle.keep_mask(3, 0, (1, WORDS), 0.5)[0]
    expected = np.repeat((2 * counts * keep)[:, None], FEATURES, 1)
    np.testing.assert_allclose(before - layer.get_weights()[0], expected, rtol=1e-5)


def test_the_mask_of_padding_passes():
    inner, _ = embedding(mask_zero=True)
    layer = EmbeddingDropout(inner, 0.5)
    mask = layer.compute_mask(ops.convert_to_tensor(INDICES), None)
    assert layer.supports_masking and (ops.convert_to_numpy(mask) == (INDICES != 0)).all()
    model = keras.Sequential([keras.Input((20,), dtype="int32"), layer, layers.GlobalAveragePooling1D()])
    expected = [inner.get_weights()[0][row[row != 0]].mean(0) for row in INDICES]
    np.testing.assert_allclose(to_numpy(model(INDICES)), expected, rtol=1e-5)


def test_indices_are_not_rounded_and_losses_counted_once():
    inner = layers.Embedding(5000, 2, "ones", activity_regularizer=lambda x: ops.sum(ops.cast(x, "float32")))
    layer = EmbeddingDropout(inner, 0.0, dtype="mixed_float16")
    inner.build(None)
    inner.set_weights([np.arange(10_000, dtype="float32").reshape(5000, 2) % 1000])
    y = layer(np.array([[4097.0]], "float32"))
    assert y.dtype == ops.cast(1, "float16").dtype and to_numpy(y)[0, 0].tolist() == [194, 195]
    assert [to_numpy(loss.detach() if BACKEND == "torch" else loss) for loss in layer.losses] == [389]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="sizes are known on the other backends")
def test_sequences_of_unknown_length():
    import tensorflow as tf

    one, other = (EmbeddingDropout(embedding()[0], 0.5, True, seed=2) for _ in range(2))
    call = tf.function(lambda x: one(x, training=True), [tf.TensorSpec((None, None), tf.int32)])
    for shape in ((2, 5), (3, 7)):
        x = INDICES[: shape[0], : shape[1]]
        np.testing.assert_array_equal(to_numpy(call(x)), train(other, x))


@pytest.mark.parametrize("per_sequence", [False, True])
def test_batches_and_sequences_of_nothing(per_sequence):
    layer = EmbeddingDropout(embedding()[0], 0.5, per_sequence)
    for shape in ((0, 4), (2, 0)):
        assert train(layer, np.zeros(shape, "int32")).shape == (*shape, FEATURES)


def test_bad_arguments_are_refused():
    class Reversed(layers.Embedding):
        def call(self, inputs):
            return super().call(inputs)[..., ::-1]

    for layer in (layers.Dense(3), Reversed(3, 4), None):
        with pytest.raises(ValueError, match=r"`layer` must be a keras.layers.Embedding.*Received: layer="):
            EmbeddingDropout(layer)
    with pytest.raises(ValueError, match=r"`per_sequence` must be True or False"):
        EmbeddingDropout(layers.Embedding(3, 4), per_sequence=1)
