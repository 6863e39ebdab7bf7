"""One run of a comparison: a candidate trained with a seed on a part of the data, the same in any process."""

import contextlib
import functools
import importlib
import pathlib
import random
import statistics
import tempfile
import threading
import time
from typing import NamedTuple

import keras
import numpy as np

from keras_dropouts.comparison.placement import digest
from keras_dropouts.keras_internals import seeds_drawn_from

# Step time: the median over this many pairs of short epochs, without and with dropout, of at most so many steps.
ROUNDS, STEPS = 7, 8
BATCH = 256


class Run(NamedTuple):
    """A candidate, by its number, with a seed; trained to choose on all folds but one, or to test on all that train."""

    stage: str
    candidate: int
    repeat: int

    @property
    def key(self):
        return f"{self.stage} {self.candidate} {self.repeat}"


class Experiment:
    """All that a run depends on; it is sent to the processes that run. Two of the same identity are equal.

    Args:
        builder: The `Builder` of the models.
        data: The `Data`.
        candidates: The list of `Candidate`s, the first of them without dropout.
        settings: A dictionary of `epochs`, `batch_size`, `folds` and `seed`.
    """

    def __init__(self, builder, data, candidates, settings):
        self.builder, self.data, self.candidates, self.settings = builder, data, candidates, settings
        self.folds = data.folds(settings["folds"], settings["seed"])
        self.here = here()
        self.identity = {
            **self.here,
            **settings,
            "task": list(data.task),
            "data": data.checksum(),
            "layers": [str(candidate) for candidate in candidates],
        }
        digests, self.places = [], []
        for number, candidate in enumerate(candidates):
            keras.utils.set_random_seed(settings["seed"])
            built = self.build(number)
            digests.append(digest(built.model))
            self.places.append(built.places)
            if candidate.layer is None:
                # Called once, so that one that is not for these data fails now and not after its training.
                self.predictions(built.model, self.first_batches(1), call=True)
        self.identity["models"] = digests

    def __eq__(self, other):
        return isinstance(other, Experiment) and self.identity == other.identity

    def __hash__(self):
        return hash(self.identity["models"][0])

    def build(self, number):
        return self.builder.build(self.candidates[number], self.data.task)

    def run(self, run, keep=False):
        """Returns what a run came to, for JSON, and its model, as the bytes of a file, or `None`."""
        task, batch_size = self.data.task, self.settings["batch_size"]
        choosing = run.stage == "choose"
        (x, y), held_out = self.data.fold(self.folds[run.repeat % len(self.folds)]) if choosing else self.data.whole()
        model = _compiled(self, run.candidate)
        seed = (self.settings["seed"] + run.repeat) % 2**32
        keras.utils.set_random_seed(seed)
        # A scheduler's threads may draw from Python's own in between.
        with seeds_drawn_from(random.Random(seed)):
            start = self.build(run.candidate).model
        start.optimizer.build(start.trainable_variables)
        _assign(model, start)
        # Once more: the batches must not depend on what the building took.
        keras.utils.set_random_seed(seed)
        validation = (held_out[0], _targets(model, held_out[1])) if choosing else None
        history = model.fit(
            x, _targets(model, y), batch_size, self.settings["epochs"], verbose=0, validation_data=validation
        ).history
        record = {"seed": seed, "curves": {name: history[name] for name in ("loss", "val_loss") if name in history}}
        losses = {}
        for part, (inputs, labels) in {"train": (x, y), "held_out": held_out}.items():
            p = self.predictions(model, (inputs, labels))
            # A run may diverge, and is then the worst.
            fine = np.isfinite(p).all()
            losses[part] = task.losses(p, labels) if fine else None
            record[part] = task.value(losses[part]) if fine else None
        record["ece"], record["bins"] = task.calibration(p, held_out[1]) if fine else (None, None)
        if not choosing:
            record["losses"] = losses["held_out"].tolist() if fine else None
        return record, _file(model) if keep else None

    def predictions(self, model, part, call=False):
        x, y = part
        outputs = model(x, training=False) if call else model.predict(x, batch_size=BATCH, verbose=0)
        return self.data.task.checked(outputs, y, getattr(model.loss, "from_logits", False))

    def first_batches(self, steps):
        """Returns the first samples that train, enough for so many steps or as many as there are, `(x, y)`."""
        (x, y), _ = self.data.fold(self.folds[0])
        size = self.settings["batch_size"]
        n = min(steps, max(len(y) // size, 1)) * size
        return keras.tree.map_structure(lambda array: array[:n], x), y[:n]

    def pictures(self):
        """Returns a sample, and (candidate, features, what the dropout makes of them) for each layer.

        The features are those of a layer of the model before it is trained, without its activation: where a ReLU gives
        0, a mask cannot be seen. Of several rates it is the one nearest to 0.5, of several sites the first that takes
        the dropout.
        """
        keras.utils.set_random_seed(self.settings["seed"])
        none = self.build(0)
        x, _ = self.first_batches(1)
        try:
            x = keras.tree.map_structure(lambda array: array[:1], x)
            (sample,) = keras.tree.flatten(x)
            inputs = keras.Model(none.inputs, [tensor for _, tensor in none.sites])(x)
        except ValueError:
            # Of several inputs, or sites within models that the model calls.
            return None, []
        sites = [(_copy(layer, value), value) for (layer, _), value in zip(none.sites, inputs, strict=True)]
        pictures = {}
        by_rate = sorted(self.candidates[1:], key=lambda each: abs((each.rate or 0) - 0.5))
        for candidate in by_rate:
            for layer, value in sites if candidate.name not in pictures else ():
                with contextlib.suppress(ValueError):
                    dropped = candidate.apply(_copy(layer, value), value, training=True)
                    pair = (keras.ops.convert_to_numpy(outputs[0]) for outputs in (layer(value), dropped))
                    pictures[candidate.name] = candidate, *pair
                    break
        order = {candidate.name: None for candidate in self.candidates}
        return sample[0], [pictures[name] for name in order if name in pictures]

    def step_time(self, number):
        """Returns the time of a training step as a multiple of that of the model without dropout."""
        x, y = self.first_batches(STEPS)
        models = [_compiled(self, 0), _compiled(self, number)]
        clocks = [_Clock(), _Clock()]
        for _ in range(ROUNDS + 1):
            for model, clock in zip(models, clocks, strict=True):
                model.fit(x, _targets(model, y), self.settings["batch_size"], verbose=0, callbacks=[clock])
        # The first round compiles what is not yet compiled.
        none, ours = (clock.times[1:] for clock in clocks)
        return statistics.median(time / base for time, base in zip(ours, none, strict=True))


# Random numbers and models are those of a process, which a scheduler may give several runs at a time.
_alone = threading.Lock()


def execute(experiment, run, keep):
    """A run in another process, or in this one."""
    with _alone:
        if here() != experiment.here:
            _as_there(experiment.here)
        return run, *experiment.run(run, keep)


def here():
    """Returns what of Keras and its backend, beside versions, changes results, and another process must be told."""
    backend = keras.config.backend()
    return {
        "keras_dropouts": importlib.import_module("keras_dropouts").__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "backend": backend,
        "backend_version": importlib.import_module(backend).__version__,
        "floatx": keras.config.floatx(),
        "dtype": keras.config.dtype_policy().name,
        "data_format": keras.config.image_data_format(),
        "threads": importlib.import_module("torch").get_num_threads() if backend == "torch" else None,
    }


def _as_there(there):
    ours = here()
    for name in ("keras_dropouts", "keras", "numpy", "backend", "backend_version"):
        if ours[name] != there[name]:
            raise ValueError(f"All processes must have the {name} {there[name]}. Received: {ours[name]}")
    keras.config.set_floatx(there["floatx"])
    keras.config.set_dtype_policy(there["dtype"])
    keras.config.set_image_data_format(there["data_format"])
    if there["threads"]:
        importlib.import_module("torch").set_num_threads(there["threads"])


@functools.lru_cache(maxsize=64)
def _compiled(experiment, number):
    """Returns a model that is compiled by a step, which also takes some of Keras's random numbers, for all its runs."""
    model = experiment.build(number).model
    x, y = experiment.first_batches(1)
    model.fit(x, _targets(model, y), experiment.settings["batch_size"], verbose=0)
    return model


def forget():
    """Lets go of the models that are compiled, and of the data."""
    _compiled.cache_clear()


def _targets(model, y):
    """Returns the labels as the loss of a model takes them."""
    name = getattr(model.loss, "name", model.loss)
    return keras.utils.to_categorical(y, model.output_shape[-1]) if name == "categorical_crossentropy" else y


def _assign(model, other):
    pairs = zip(model.variables + model.optimizer.variables, other.variables + other.optimizer.variables, strict=True)
    for variable, value in pairs:
        variable.assign(value)


def _file(model):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.keras"
        model.save(path)
        return path.read_bytes()


def _copy(layer, inputs):
    """Returns a copy of a layer without its activation."""
    config = layer.get_config()
    copy = layer.__class__.from_config(config | {"activation": None} if "activation" in config else config)
    copy.build(inputs.shape)
    copy.set_weights(layer.get_weights())
    return copy


class _Clock(keras.callbacks.Callback):
    """The time of each epoch from its first step to its end, when the loss has arrived."""

    def __init__(self):
        super().__init__()
        self.times = []

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 0:
            self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.times.append(time.perf_counter() - self.start)
