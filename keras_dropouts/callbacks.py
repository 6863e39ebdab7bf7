import collections

import keras

from keras_dropouts.keras_internals import held_layers
from keras_dropouts.layers.base import SeededLayer


class RateLogger(keras.callbacks.Callback):
    """Puts the rate of each layer into the logs of an epoch, beside loss and metrics.

    `History`, `CSVLogger`, `TensorBoard` and the progress bar then show it, as `rate/<name of the layer>`; of a layer
    in a nested model, `rate/<name of the model>/<name of the layer>`. What counts is the rate at the epoch's end: the
    one that the next step takes, also where it is learnt. Layers whose parameter has another name have that:
    `beta/<name>`. TargetedDropout has its `targeted/<name>` too. The variational layers have their `kl_weight/<name>`,
    and what they learn: `rate/<name>`, `sparsity/<name>`.

    The logs are one dictionary that callbacks see in the order of the list: put this one before `CSVLogger` and
    `TensorBoard`. Keras's own `History` and progress bar come last.

    Example:

    >>> import keras, numpy as np
    >>> from keras_dropouts import CurriculumDropout, Dropout, RateLogger
    >>> dropout = Dropout(CurriculumDropout(0.5, gamma=0.5), name="dropout")
    >>> model = keras.Sequential([keras.Input((3,)), dropout, keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> x, y = np.ones((8, 3)), np.ones((8, 1))
    >>> history = model.fit(x, y, batch_size=4, epochs=3, verbose=0, callbacks=[RateLogger()]).history
    >>> [round(rate, 3) for rate in history["rate/dropout"]]
    [0.316, 0.432, 0.475]
    """

    def on_epoch_end(self, epoch, logs=None):
        if self.model is None or logs is None:
            raise ValueError(
                f"RateLogger must be among the `callbacks` of `fit`, or be called after `set_model`, with logs to put "
                f"the rates into. Received: model={self.model!r}, logs={logs!r}"
            )
        for path, layer in _seeded_layers(self.model):
            logs |= {f"{name}/{path}": value for name, value in layer.readings().items()}


def _seeded_layers(layer, path=""):
    times = collections.Counter()
    for inner in held_layers(layer):
        # Names may repeat in a subclassed model.
        repeated = f"_{times[inner.name]}" if times[inner.name] else ""
        times[inner.name] += 1
        name = path + inner.name + repeated
        if isinstance(inner, SeededLayer):
            yield name, inner
        yield from _seeded_layers(inner, name + "/")
