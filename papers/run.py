"""One run: an arm with a seed, its training and what of it is kept until it is finished."""

import json
import os
import time
import types

import keras
import numpy as np

# Seconds of training that may be lost.
OFTEN = 20


class Run:
    """An arm with a seed.

    Attributes:
        arm: Its name.
        seed: A small integer, of the initial weights and of the order of the batches.
        budget: What the script says of how long to train, as attributes.
        folder: A folder of the run's own, which is there until the run is finished.
    """

    def __init__(self, arm, seed, budget, folder):
        self.arm, self.seed, self.folder = arm, seed, folder
        self.budget = types.SimpleNamespace(**budget)
        self._began = time.perf_counter() - (self._read("seconds") or 0)
        self._layers = 0

    @property
    def seconds(self):
        """What the run took until now, in all processes that worked on it; without what was lost when one ended."""
        return time.perf_counter() - self._began

    def layer_seed(self):
        """Returns a seed for a layer that draws, for each one another. Without it the layer would take one of Keras's,
        and weights that are made later would start elsewhere than those of an arm without the layer.
        """
        self._layers += 1
        return 1000 * self.seed + self._layers

    def random(self, *words):
        """Returns NumPy's generator for this seed: with other words another, for all arms the same."""
        return np.random.default_rng((self.seed, *words))

    def fit(self, model, x, y, epochs, batch_size, after_epoch=None, name="model"):
        """Trains a compiled model, and returns what `fit` logs of each epoch, a list of dictionaries.

        The model is saved on the way. The same call, in another process on the same backend, goes on from there.

        Args:
            model, x, y, epochs, batch_size: As for `keras.Model.fit`. What is left of an epoch after the last whole
                batch is left out.
            after_epoch: A function of the model, whose dictionary joins what is logged.
            name: Where a run trains several times, each needs one of its own.
        """
        state = self._read(name) or {"epoch": 0, "logs": []}
        if state["epoch"]:
            # Or else it has no places for what is loaded.
            model.optimizer.build(model.trainable_variables)
            model.load_weights(self._weights(name, state["epoch"]))
        saved = time.perf_counter()
        for epoch in range(state["epoch"], epochs):
            order = self.random(epoch).permutation(len(x))[: len(x) // batch_size * batch_size]
            fitted = model.fit(
                x[order], y[order], batch_size, initial_epoch=epoch, epochs=epoch + 1, shuffle=False, verbose=0
            )
            logs = {key: values[0] for key, values in fitted.history.items()}
            state["logs"].append(logs | (after_epoch(model) if after_epoch else {}))
            if epoch + 1 == epochs or time.perf_counter() - saved > OFTEN:
                before, state["epoch"] = state["epoch"], epoch + 1
                self.folder.mkdir(parents=True, exist_ok=True)
                model.save_weights(self._weights(name, state["epoch"]))
                self._write(name, state)
                self._write("seconds", self.seconds)
                self._weights(name, before).unlink(missing_ok=True)
                saved = time.perf_counter()
        return state["logs"]

    def _weights(self, name, epoch):
        return self.folder / f"{name}-{epoch}.weights.h5"

    def _read(self, name):
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def _write(self, name, value):
        path = self.folder / f"{name}.json"
        path.with_suffix(".new").write_text(json.dumps(value))
        os.replace(path.with_suffix(".new"), path)


def test_error(model, part):
    """Returns the errors of a classifier in percent."""
    x, y = part
    predicted = keras.ops.convert_to_numpy(model.predict(x, batch_size=500, verbose=0))
    return 100 * float(np.mean(predicted.argmax(-1) != y))
