"""PatchDropout against an oracle of its own, and what a sequence that gets shorter means for masks and models."""

import keras
import numpy as np
import oracle
import pytest
from backend import BACKEND, to_numpy, train
from keras import ops
from keras.optimizers.schedules import PolynomialDecay

from keras_dropouts import PatchDropout

SIGMAS = 4.5


def indices_of(seed, call, samples, tokens, prefix, kept):
    """The places of the tokens that are kept, one sample at a time."""
    draws = oracle.draws(seed, call, (samples, 2, tokens - prefix)) + 32768
    for high, low in draws.tolist():
        numbers = [(h - 32768) * 65536 + w for h, w in zip(high, low, strict=True)]
        first = sorted(range(len(numbers)), key=numbers.__getitem__)[:kept]
        yield [*range(prefix), *(prefix + place for place in sorted(first))]


def numbered(samples, tokens, features=2):
    return np.arange(samples * tokens * features, dtype="float32").reshape(samples, tokens, features)


@pytest.mark.parametrize(("tokens", "prefix", "rate", "kept"), [(17, 1, 0.5, 8), (9, 0, 0.75, 2), (6, 2, 1.0, 1)])
def test_the_oracle_keeps_the_same(tokens, prefix, rate, kept):
    layer, x = PatchDropout(rate, prefix, return_indices=True, seed=3), numbered(5, tokens)
    for call in range(2):
        y, indices = layer(x, training=True)
        expected = np.array(list(indices_of(3, call, 5, tokens, prefix, kept)))
        np.testing.assert_array_equal(ops.convert_to_numpy(indices), expected)
        np.testing.assert_array_equal(to_numpy(y), np.stack([one[i] for one, i in zip(x, expected, strict=True)]))


@pytest.mark.parametrize(
    ("tokens", "rate", "kept"), [(100, 0.9, 10), (30, 0.9, 3), (7, 0.3, 4), (3, 0.9, 1), (8, 0, 8)]
)
def test_the_count_is_exact(tokens, rate, kept):
    # In floats, 100 * (1 - 0.9) is less than 10.
    assert train(PatchDropout(rate, 0), numbered(2, tokens)).shape[1] == kept


def test_each_token_is_kept_as_often_as_any_other():
    samples, tokens, kept = 20_000, 7, 3
    _, indices = PatchDropout(0.5, 1, return_indices=True, seed=1)(numbered(samples, tokens, 1), training=True)
    chosen = (ops.convert_to_numpy(indices)[:, :, None] == np.arange(1, tokens)).any(1)
    share = kept / (tokens - 1)
    assert (chosen.sum(1) == kept).all()
    assert (abs(chosen.mean(0) - share) < SIGMAS * np.sqrt(share * (1 - share) / samples)).all()
    # Each pair, too: a choice of so many, not of one after the other.
    pairs = (chosen[:, :, None] & chosen[:, None]).mean(0)[np.triu_indices(tokens - 1, 1)]
    both = share * (kept - 1) / (tokens - 2)
    assert (abs(pairs - both) < SIGMAS * np.sqrt(both * (1 - both) / samples)).all()


def test_a_prefix_as_long_as_the_sequence_is_all_that_is_kept():
    for prefix in (4, 9):
        np.testing.assert_array_equal(train(PatchDropout(0.5, prefix), numbered(2, 4)), numbered(2, 4))


def test_inference_gives_all_places():
    layer = PatchDropout(0.5, return_indices=True)
    y, indices = layer(numbered(2, 5))
    np.testing.assert_array_equal(to_numpy(y), numbered(2, 5))
    np.testing.assert_array_equal(ops.convert_to_numpy(indices), [range(5)] * 2)


class Seen(keras.layers.Layer):
    """Returns the mask of its inputs as numbers, and keeps the sizes that it is called with."""

    def __init__(self):
        super().__init__()
        self.supports_masking, self.lengths = True, []

    def call(self, inputs, mask=None):
        self.lengths.append(inputs.shape[1])
        return inputs[:, :, :1] * 0 + ops.cast(mask, inputs.dtype)[:, :, None]

    def compute_output_shape(self, input_shape):
        return *input_shape[:2], 1


@pytest.mark.parametrize("functional", [False, True])
def test_the_mask_is_gathered(functional, tmp_path):
    x = numbered(4, 9)
    for sample, length in enumerate((9, 5, 3, 1)):
        x[sample, length:] = -1
    layers = [keras.layers.Masking(-1.0), PatchDropout(0.5, seed=5, name="patches"), Seen()]
    model = keras.Sequential([keras.Input(x.shape[1:]), *layers] if functional else layers)
    for call in range(2):
        expected = [np.isin(i, range(n)) for i, n in zip(indices_of(5, call, 4, 9, 1, 4), (9, 5, 3, 1), strict=True)]
        np.testing.assert_array_equal(to_numpy(model(x, training=True))[:, :, 0], expected)
    np.testing.assert_array_equal(to_numpy(model(x))[:, :, 0], x[:, :, 0] != -1)
    if functional:
        part = keras.Model(model.inputs, model.get_layer("patches").output)
        pooled = keras.Sequential([part, keras.layers.GlobalAveragePooling1D()])
        pooled.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(to_numpy(loaded(x, training=True)), to_numpy(pooled(x, training=True)))


def test_fit_computes_with_fewer_tokens():
    seen = Seen()
    inputs = keras.Input((9, 2))
    x = keras.layers.Masking(-1.0)(inputs)
    x, indices = PatchDropout(0.5, return_indices=True)(x)
    assert (x.shape, indices.shape) == ((None, None, 2), (None, None)) and indices.dtype == "int32"
    x = keras.layers.MultiHeadAttention(1, 4)(x, x)
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.GlobalAveragePooling1D()(seen(x))))
    model.compile("sgd", "mse")
    lengths = []
    for run in (lambda x: model.fit(x, np.zeros((4, 1)), verbose=0), lambda x: model.predict(x, verbose=0)):
        run(numbered(4, 9))
        # Keras may call the model before, to build it.
        lengths.append(seen.lengths[-1])
    assert lengths == [5, 9]


def test_symbols_are_as_precise_as_what_is_said():
    layer, symbol = PatchDropout(0.5, return_indices=True), keras.KerasTensor((None, 17, 3))
    for training, tokens in ((None, None), (True, 9), (False, 17)):
        y, indices = layer.compute_output_spec(symbol, training=training)
        assert (y.shape, indices.shape) == ((None, tokens, 3), (None, tokens))
    assert layer.compute_output_shape((None, 17, 3)) == ((None, None, 3), (None, None))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="sizes are known on the other backends")
def test_sequences_of_unknown_length():
    import tensorflow as tf

    layer, twin = (PatchDropout(0.9, 2, seed=2) for _ in range(2))
    call = tf.function(lambda x: layer(x, training=True), [tf.TensorSpec((None, None, 2))])
    for tokens in (102, 32, 4, 2, 1, 0):
        np.testing.assert_array_equal(to_numpy(call(numbered(3, tokens))), train(twin, numbered(3, tokens)))


def test_bad_arguments_are_refused():
    for rate in (-0.1, 1.5, True, None, "0.5", PolynomialDecay(0.0, 10, 0.5)):
        with pytest.raises(ValueError, match=r"`rate` must be a number in \[0, 1\]\. Received: rate="):
            PatchDropout(rate)
    for prefix in (-1, 1.0, True, None):
        with pytest.raises(ValueError, match=r"`prefix_tokens` must be an integer that is not negative.*Received: pre"):
            PatchDropout(0.5, prefix)
    with pytest.raises(ValueError, match=r"`return_indices` must be True or False\. Received: return_indices=1"):
        PatchDropout(0.5, return_indices=1)


def test_the_rate_does_not_change():
    layer = PatchDropout(0.5)
    with pytest.raises(ValueError, match=r"`rate` of PatchDropout must be given when.*Received: rate=0.1"):
        layer.rate = 0.1
    assert layer.rate == layer.get_config()["rate"] == 0.5
