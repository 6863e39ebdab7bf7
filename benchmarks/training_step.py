"""What a dropout layer costs in a training step: `KERAS_BACKEND=jax python benchmarks/training_step.py [LAYER ...]`.

A small residual network (batch 64, 28 x 28 x 32, 4 convolutions, a dropout after each) is trained with `fit`, as a user
would: without dropout, with a layer that only doubles its input, with Keras's own Dropout, and with each of ours. The
epochs of all of them take turns. Printed are milliseconds a step (the median), and the ratio to no layer: the median of
the ratios of epochs that ran side by side.
"""

import statistics
import sys
import time

import keras
import numpy as np

import keras_dropouts as kd

BATCH, STEPS, ROUNDS = 64, 8, 15


class Twice(keras.layers.Layer):
    def call(self, inputs, training=False):
        return inputs * 2 if training else inputs


LAYERS = {
    "no layer": None,
    "x * 2": Twice,
    "keras.layers.Dropout": lambda: keras.layers.Dropout(0.2, seed=1),
    "Dropout": lambda: kd.Dropout(0.2),
    "SpatialDropout2D": lambda: kd.SpatialDropout2D(0.2),
    "GaussianDropout": lambda: kd.GaussianDropout(0.2),
    "DropBlock2D": lambda: kd.DropBlock2D(0.1, block_size=7),
}


def network(make):
    def dropped(x):
        return make()(x) if make else x

    x = inputs = keras.Input((28, 28, 32))
    for _ in range(2):
        y = dropped(keras.layers.Conv2D(32, 3, padding="same", activation="relu")(x))
        y = dropped(keras.layers.Conv2D(32, 3, padding="same")(y))
        x = keras.layers.add([x, y])
    outputs = keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def main(names):
    rng = np.random.default_rng(0)
    x = keras.ops.convert_to_tensor(rng.standard_normal((BATCH * STEPS, 28, 28, 32)), "float32")
    y = keras.ops.convert_to_tensor(rng.integers(0, 10, BATCH * STEPS))
    models = {name: network(LAYERS[name]) for name in ("no layer", *names)}
    times = {name: [] for name in models}
    # The first round compiles.
    for _ in range(1 + ROUNDS):
        for name, model in models.items():
            start = time.perf_counter()
            model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
            times[name].append((time.perf_counter() - start) / STEPS)
    print(f"Keras {keras.__version__}, {keras.backend.backend()}")
    none = times["no layer"][1:]
    for name, seconds in times.items():
        ratio = statistics.median(t / t0 for t, t0 in zip(seconds[1:], none, strict=True))
        print(f"{name:22}{statistics.median(seconds[1:]) * 1e3:7.1f} ms{ratio:7.2f}")


if __name__ == "__main__":
    main(sys.argv[1:] or [name for name in LAYERS if name != "no layer"])
