"""monte_carlo against NumPy: moments, measures of uncertainty, sources of data, and what it leaves alone."""

import keras
import numpy as np
import pytest
from backend import to_numpy

import keras_dropouts as kd

X = np.random.default_rng(0).standard_normal((7, 6)).astype("float32")


def classifier(**kwargs):
    layers = [
        keras.layers.Dense(9, "relu"),
        kd.Dropout(0.4, seed=5),
        keras.layers.BatchNormalization(),
        # Without a seed of its own, and of Keras.
        keras.layers.Dropout(0.3),
        keras.layers.Dense(4, "softmax", kernel_initializer=keras.initializers.RandomNormal(stddev=2.0, seed=1)),
    ]
    return keras.Sequential([keras.Input((6,)), *layers], **kwargs)


def monte_carlo(model, x, samples=8, batch_size=3, seed=1, **kwargs):
    return kd.monte_carlo(model, x, samples=samples, batch_size=batch_size, seed=seed, verbose=0, **kwargs)


def entropy(p):
    p = p.astype("float64")
    return -np.sum(p * np.log(np.where(p > 0, p, 1)), axis=-1)


def test_the_moments_are_those_of_the_masks():
    rate, samples, width = 0.3, 1000, 200
    w, x = (np.random.default_rng(i).standard_normal(shape) for i, shape in ((1, width), (2, (3, width))))
    model = keras.Sequential([keras.Input((width,)), kd.Dropout(rate), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([w[:, None]])
    prediction = monte_carlo(model, x, samples=samples, batch_size=2, keep_samples=False)
    std = np.sqrt((w * x) ** 2 @ np.full(width, rate / (1 - rate)))
    assert prediction.samples is None
    assert prediction.mean.shape == prediction.std.shape == (3, 1)
    assert (abs(prediction.mean[:, 0] - x @ w) < 4.5 * std / np.sqrt(samples)).all()
    # A sum of so many is nearly normal.
    assert (abs(prediction.std[:, 0] / std - 1) < 4.5 / np.sqrt(2 * samples)).all()


def test_the_measures_are_those_of_the_samples():
    prediction, moments = (monte_carlo(classifier_once(), X, samples=30, keep_samples=keep) for keep in (True, False))
    samples = prediction.samples
    assert samples.shape == (30, 7, 4) and prediction.mean.shape == (7, 4) and prediction.entropy.shape == (7,)
    assert len({sample.tobytes() for sample in samples}) == 30
    counts = np.stack([(samples.argmax(-1) == k).sum(0) for k in range(4)])
    expected = {
        "mean": samples.mean(0, "float64"),
        "std": samples.std(0, "float64"),
        "entropy": entropy(samples.mean(0)),
        "mutual_information": entropy(samples.mean(0)) - entropy(samples).mean(0),
        "variation_ratio": 1 - counts.max(0) / 30,
    }
    assert expected["mutual_information"].max() > 0.1 and expected["variation_ratio"].max() > 0.1
    for result in (prediction, moments):
        for name, value in expected.items():
            np.testing.assert_allclose(getattr(result, name), value, rtol=1e-5, atol=1e-6, err_msg=name)


def classifier_once():
    keras.utils.set_random_seed(3)
    return classifier()


def test_agreement_is_no_information():
    model = keras.Sequential([keras.Input((6,)), kd.Dropout(0.5), keras.layers.Dense(4, "softmax")])
    model.layers[-1].set_weights([np.zeros((6, 4)), np.arange(4.0)])
    prediction = monte_carlo(model, X, samples=50)
    p = np.exp(np.arange(4.0)) / np.exp(np.arange(4.0)).sum()
    np.testing.assert_allclose(prediction.entropy, entropy(p), rtol=1e-5)
    assert (prediction.mutual_information >= 0).all() and prediction.mutual_information.max() < 1e-6
    np.testing.assert_array_equal(prediction.variation_ratio, 0)
    np.testing.assert_allclose(prediction.std, 0, atol=1e-6)


def test_a_mean_far_from_0_does_not_hide_the_spread():
    model = keras.Sequential([keras.Input((6,)), kd.Dropout(0.5), keras.layers.Dense(1, bias_initializer="ones")])
    model.set_weights([model.get_weights()[0], np.array([3e3])])
    prediction, moments = (monte_carlo(model, X, samples=100, keep_samples=keep) for keep in (True, False))
    std = prediction.samples.std(0, "float64")
    assert std.min() > 0.1
    np.testing.assert_allclose(moments.std, std, rtol=1e-3)
    np.testing.assert_allclose(prediction.std, std, rtol=1e-3)


def test_the_model_is_as_before():
    model, twin = classifier_once(), classifier_once()
    before = [to_numpy(v) for v in model.variables]
    first = monte_carlo(model, X)
    np.testing.assert_array_equal(monte_carlo(model, X).samples, first.samples)
    for v, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(to_numpy(v), value, err_msg=v.path)
    np.testing.assert_array_equal(model.predict(X, verbose=0), twin.predict(X, verbose=0))
    layer, other = model.layers[1], twin.layers[1]
    ones = np.ones((2, 9), "float32")
    np.testing.assert_array_equal(to_numpy(layer(ones, training=True)), to_numpy(other(ones, training=True)))


def test_seeds():
    # Dropout alone shows the masks. The second has no seed of its own, and is Keras's.
    model = keras.Sequential([keras.Input((90,)), kd.Dropout(0.4, seed=5), keras.layers.Dropout(0.3)])
    x = np.ones((7, 90), "float32")
    one, other = (monte_carlo(model, x, seed=seed).samples for seed in (1, 2))
    free = []
    for seed in (4, 4):
        keras.utils.set_random_seed(seed)
        free.append(monte_carlo(model, x, seed=None).samples)
    np.testing.assert_array_equal(free[0], free[1])
    # No example of any batch, sample or seed has the masks of another.
    draws = np.concatenate([one, other, free[0]]).reshape(-1, 90)
    assert len({draw.tobytes() for draw in draws}) == len(draws)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, i):
        return X[3 * i : 3 * i + 3], np.zeros(len(X[3 * i : 3 * i + 3]))


def tensorflow_dataset():
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices((X, np.zeros(7))).batch(3)


def data_loader():
    data = pytest.importorskip("torch.utils.data")
    import torch

    return data.DataLoader(data.TensorDataset(torch.from_numpy(X), torch.zeros(7)), batch_size=3)


@pytest.fixture(scope="module")
def of_an_array():
    model = classifier()
    return model, monte_carlo(model, X)


# As Keras says of each generator that ends.
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("source", [Batches, tensorflow_dataset, data_loader, lambda: (b for b in Batches())])
def test_sources(source, of_an_array):
    model, expected = of_an_array
    np.testing.assert_allclose(monte_carlo(model, source()).samples, expected.samples, rtol=1e-5)


def test_several_inputs_and_outputs():
    inputs = {name: keras.Input((6,), name=name) for name in ("left", "right")}
    head = keras.layers.Dense(2, use_bias=False)
    x = kd.Dropout(0.5)(keras.layers.add([keras.layers.Dense(5)(each) for each in inputs.values()]))
    outputs = {"class": keras.layers.Dense(3, "softmax")(x), "parts": [head(x), x]}
    model = keras.Model(inputs, outputs)
    predictions = monte_carlo(model, {"left": X, "right": 2 * X})
    assert set(predictions) == {"class", "parts"}
    assert predictions["class"].samples.shape == (8, 7, 3)
    assert [each.samples.shape for each in predictions["parts"]] == [(8, 7, 2), (8, 7, 5)]
    assert predictions["class"].entropy.shape == (7,)
    # One pass gives all outputs: what is dropped for one is dropped for the others.
    made, drawn = (each.samples for each in predictions["parts"])
    assert (drawn == 0).mean() > 0.3
    np.testing.assert_allclose(made, drawn @ to_numpy(head.kernel), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(7, 1), (7,)])
def test_a_sigmoid_is_two_classes(shape):
    layers = [keras.layers.Dense(20), kd.Dropout(0.5), keras.layers.Dense(1, "sigmoid")]
    if len(shape) == 1:
        layers.append(keras.layers.Lambda(lambda y: y[:, 0], output_shape=()))
    prediction = monte_carlo(keras.Sequential([keras.Input((6,)), *layers]), X, samples=25)
    assert prediction.mean.shape == shape
    second = prediction.samples.reshape(25, 7)
    both = np.stack([1 - second, second], -1)
    np.testing.assert_allclose(prediction.entropy, entropy(both.mean(0)), rtol=1e-5)
    information = entropy(both.mean(0)) - entropy(both).mean(0)
    np.testing.assert_allclose(prediction.mutual_information, information, rtol=1e-3, atol=1e-6)
    share = (second > 0.5).mean(0)
    np.testing.assert_allclose(prediction.variation_ratio, np.minimum(share, 1 - share), atol=1e-6)


def test_a_class_for_each_position():
    model = keras.Sequential([keras.Input((5, 3, 2)), kd.Dropout(0.5), keras.layers.Dense(4, "softmax")])
    prediction = monte_carlo(model, np.ones((7, 5, 3, 2)))
    assert prediction.samples.shape == (8, 7, 5, 3, 4)
    assert prediction.variation_ratio.shape == prediction.mutual_information.shape == (7, 5, 3)


def test_narrow_probabilities_are_probabilities():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = keras.Sequential([keras.Input((6,)), kd.Dropout(0.5), keras.layers.Dense(1000, "softmax")])
    finally:
        keras.config.set_dtype_policy("float32")
    prediction = monte_carlo(model, X)
    assert prediction.mean.dtype == "float32" and (prediction.entropy > 0).all()


@pytest.mark.parametrize("narrow", [True, False], ids=["bfloat16", "wider"])
def test_how_far_from_1_a_sum_may_be(narrow):
    # So many equal entries, each of few digits: their type holds them, and their sum is exact.
    rows = {
        "off": ("float32", 1000, 125 * 2**-17),
        "few_off": ("float32", 4, 124 * 2**-9),
        # Below the normal numbers of float16.
        "many": ("float16", 50_000, 21 * 2**-20),
    }
    inputs = {name: keras.Input((n,), name=name) for name, (_, n, _) in rows.items()}
    outputs = {name: kd.Dropout(0.0, dtype="bfloat16" if narrow else rows[name][0])(x) for name, x in inputs.items()}
    outputs["widened"] = keras.layers.Activation("linear", dtype="float32")(outputs["off"])
    x = {name: np.full((1, n), entry) for name, (_, n, entry) in rows.items()}
    predictions = monte_carlo(keras.Model(inputs, outputs), x, samples=2, keep_samples=False)
    for name, (_, n, entry) in {**rows, "widened": rows["off"]}.items():
        np.testing.assert_array_equal(predictions[name].mean, np.float32(entry))
        if name == "many" or (narrow and name != "few_off"):
            np.testing.assert_allclose(predictions[name].entropy, -n * entry * np.log(entry), rtol=1e-4)
        else:
            with pytest.raises(ValueError, match="outputs must be probabilities"):
                predictions[name].entropy  # noqa: B018


def sums_to_1(y):
    return y - keras.ops.mean(y, -1, keepdims=True) + 1 / 3


@pytest.mark.parametrize("activation", [None, "relu", "log_softmax", "sigmoid", sums_to_1])
def test_what_are_no_probabilities_have_no_entropy(activation):
    model = keras.Sequential([keras.Input((6,)), kd.Dropout(0.5), keras.layers.Dense(3, activation)])
    prediction = monte_carlo(model, X, samples=2, batch_size=7)
    assert prediction.mean.shape == prediction.std.shape == (7, 3)
    for name in ("entropy", "mutual_information", "variation_ratio"):
        with pytest.raises(ValueError, match=r"(?s)outputs must be probabilities.*softmax.*Received: outputs of shape"):
            getattr(prediction, name)


def test_one_sample():
    prediction = monte_carlo(classifier(), X, samples=1)
    np.testing.assert_array_equal(prediction.mean, prediction.samples[0])
    np.testing.assert_array_equal(prediction.std, 0)


def test_progress_counts_batches(capsys):
    kd.monte_carlo(classifier(), X, samples=2, batch_size=3, verbose=1)
    assert "3/3" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [{"samples": n} for n in (0, -1, 2.0, True, None, 2**31, 2**70)]
    + [{"batch_size": n} for n in (0, -1, 2.0, True, "3")]
    + [{"verbose": v} for v in ("none", -1, 3, None, [])]
    + [{"seed": -1}, {"seed": 1.5}, {"keep_samples": 1}],
    ids=repr,
)
def test_bad_arguments_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"`{name}` must be .*Received: {name}="):
        kd.monte_carlo(classifier(), X, **arguments)


def test_a_model_without_dropout_is_refused():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, "softmax")])
    with pytest.raises(ValueError, match="dropout"):
        monte_carlo(model, X)


def test_a_model_with_a_predict_of_its_own_is_refused():
    class Scaled(keras.Sequential):
        def predict(self, x, **kwargs):
            return super().predict(x / 255, **kwargs)

    with pytest.raises(ValueError, match=r"(?s)`model` must predict.*own `predict`.*Received: model="):
        monte_carlo(Scaled([keras.Input((6,)), kd.Dropout(0.5)]), X)
    model = keras.Sequential([keras.Input((6,)), kd.Dropout(0.5)])
    model.predict = lambda x: x
    with pytest.raises(ValueError, match=r"(?s)`model` must predict.*own `predict`.*Received: model="):
        monte_carlo(model, X)


class Empty(Batches):
    def __len__(self):
        return 0


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize(
    "x",
    [None, [], {}, [[]], {"x": None}, [X, None], X[:0], np.float32(1), Empty()],
    ids=["none", "list", "dict", "list in list", "none in dict", "none in list", "empty", "no axis", "no batches"],
)
def test_no_examples_are_refused(x):
    # Keras has an error of its own for some.
    with pytest.raises(ValueError, match=r"(?s)`x` must hold at least one example.*Received: x=|has length 0"):
        monte_carlo(classifier(), x)


def test_an_error_loses_nothing():
    model = keras.Sequential([keras.Input((6,)), kd.Dropout(0.5), keras.layers.Dense(2)])
    expected = monte_carlo(model, X, samples=2, batch_size=7).samples

    def batches():
        for _ in range(10):
            yield (X[:3],)
        yield (X[:3, :5],)

    for x in (X[:, :5], batches()):
        with pytest.raises(Exception, match=r"(?i)shape"):
            monte_carlo(model, x, samples=2, batch_size=7)
    np.testing.assert_array_equal(monte_carlo(model, X, samples=2, batch_size=7).samples, expected)


class Numbered(keras.layers.Dropout):
    def call(self, inputs, training=False, member=None):
        return inputs if member is None else inputs + keras.ops.cast(member, inputs.dtype)


def test_a_layer_that_asks_is_told_which_prediction_it_is():
    model = keras.Sequential([keras.Input((6,)), Numbered(0.5)])
    samples = monte_carlo(model, X, samples=3, batch_size=7).samples
    np.testing.assert_array_equal(samples, X + np.arange(3, dtype="float32")[:, None, None])
