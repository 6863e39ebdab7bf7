"""`keras_dropouts.audit`: whether the dropout of a model drops, where and as often as it says."""

import itertools
import math
import warnings
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_dropouts.auditing.draws import SIGMAS, Draws, draws_of, groups_of, same
from keras_dropouts.auditing.inputs import few, inputs_for
from keras_dropouts.auditing.recording import (
    Diverged,
    Recorder,
    numbers,
    on_replicas,
    product_and_gradient,
    tensors,
    told_in_fit,
    with_gradient,
)
from keras_dropouts.auditing.report import ERROR, NOTE, WARNING, Audit, AuditedLayer, Finding
from keras_dropouts.inference.always_on import AlwaysOn, always_on
from keras_dropouts.keras_internals import AUGMENTATION, all_layers, held_layers, seed_generators, wired_on
from keras_dropouts.layers.base import RandomLayer, SeededLayer
from keras_dropouts.layers.layer_wrapper import LayerWrapper
from keras_dropouts.layers.multi_head_attention import MultiHeadAttention
from keras_dropouts.layers.shake_drop import ShakeDrop

DROPOUT = (keras.layers.Dropout, keras.layers.AlphaDropout, keras.layers.GaussianDropout)
ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
# What layers call the share that they drop.
RATES = ("rate", "drop_rate", "dropout_rate", "drop_prob", "dropout_prob", "drop_path_rate")
# Of what a batch normalization reads: by so much its variance must differ, in training and at inference.
SHIFT = 1.2
RUNS = 4
# So often a layer that draws once a call is called until it is taken for one that does not.
TRIES = 64
# With that many draws expected, none is seen once in a million times; for rare ones it is not tried.
CERTAIN, MOST_TRIES = 14, 300


def audit(model: keras.Model, x: Any = None) -> Audit:
    """Runs a model and says of each layer that draws whether it drops, when, and as often as it was asked to.

    The model is called as `fit`, `predict` and `always_on` call it, and each layer once more by itself. It is left as
    it was: weights, random states, gradients, what is compiled.

    Layers that draw are: Keras's and our dropout, the `dropout` of recurrent and attention layers, noise and
    augmentation, and layers of your own that draw with a `keras.random.SeedGenerator` or without one, wherever they
    are: in nested models, wrappers, lists and attributes.

    Args:
        model: A built `keras.Model`: Sequential, functional or subclassed.
        x: Inputs as for `model.predict`, arrays, of which the first 32 samples are used. `None`: random ones are made
            by what the model says it takes.

    Returns:
        An `Audit`: printed, it is a table; `problems` is the list of what is wrong.

    Raises:
        ValueError: Where `model` is not as described, or `x` is `None` and no inputs can be made.

    Example:

    >>> import keras
    >>> from keras_dropouts import audit
    >>> inputs = keras.Input((8,))
    >>> x = keras.layers.Dropout(0.5)(keras.layers.Dense(64)(inputs))
    >>> x = keras.layers.BatchNormalization()(x)
    >>> [problem.what for problem in audit(keras.Model(inputs, keras.layers.Dense(1)(x))).problems]
    ['before-batch-normalization']
    """
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(
            f"`model` must be a keras.Model that is built: by a keras.Input, or by calling it once. "
            f"Received: model={model!r}"
        )
    x = tree.map_structure(ops.convert_to_tensor, inputs_for(model) if x is None else few(x))
    with warnings.catch_warnings():
        # Of masks that a layer drops, and of other things that a run says of itself.
        warnings.simplefilter("ignore")
        return _Run(model, x).audit()


class _Run:
    """One audit: the model, what was recorded of it, and the findings so far."""

    def __init__(self, model, x):
        self.model, self.x = model, x
        layers = all_layers(model)
        self.paths = _paths(model, layers)
        served = _served(layers)
        self.candidates = [layer for layer in layers if layer not in served and _may_draw(layer)]
        self.norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
        self.by_always_on = {part for layer in layers if isinstance(layer, AlwaysOn) for part in all_layers(layer)}
        within = {part for layer in self.candidates if _is_whole(layer) for part in held_layers(layer)}
        whole = within.union(self.candidates, self.norms)
        hidden = {part for layer in served for part in all_layers(layer)}
        self.tapped = {layer: layer in whole for layer in layers if layer not in hidden}
        self.rates = {layer: _rate_of(layer) for layer in self.candidates}
        self.findings: list[Finding] = []
        self.refusal = ""
        # Of those that draw: their draws, where they are known.
        self.draws: dict[keras.layers.Layer, Draws | None] = {}

    def audit(self):
        if not self.candidates:
            return Audit([], [])
        with Recorder(self.model, self.tapped) as self.recorder:
            self.told = told_in_fit(self.recorder, self.x)
            self.predict = self.tried("predict", lambda: self.model(self.x, training=False))
            self.fit = self.tried("fit", self.as_fit)
            self.always = self.as_always_on()
            rows = [row for layer in self.candidates if (row := self.row(layer))]
            if self.refusal and any(row.fit for row in rows):
                advice = "Where you need dropout in predict, do as it says."
                self.find(self.model, "no-always-on", NOTE, f"always_on refuses the model: {self.refusal}", advice)
            if not self.told and rows:
                self.find(
                    self.model,
                    "off-in-fit",
                    ERROR,
                    "no layer draws in fit: `train_step` does not call the model with training=True",
                    "Call `self(x, training=True)` there.",
                )
            self.check_masks()
            self.check_backward()
            self.check_replicas()
            self.check_outputs()
            self.check_norms()
            self.check_seeds()
        return Audit(rows, self.findings)

    def find(self, layer, what, severity, message, advice, **measured):
        self.findings.append(Finding(self.paths[layer], what, severity, message, advice, measured))

    def tried(self, name, function, off=()):
        """Returns the calls that a function makes, or `None` where it fails, which is a finding."""
        try:
            return self.recorder.record(function, off)
        # Whatever a layer of anybody raises.
        except Exception as error:
            self.find(
                self.model,
                "fails",
                ERROR,
                f"the model cannot be called as {name} calls it: {_said(error)}",
                "See whether `fit` and `predict` run, or give inputs that suit the model as `x`.",
            )
            return None

    def as_fit(self):
        self.outputs = with_gradient(lambda x: self.model(x, training=self.told), self.x, self.recorder)

    def as_always_on(self):
        """Returns the calls as `always_on` makes them, or `None` where it refuses the model."""
        if self.by_always_on or not self.predict:
            return None
        try:
            with self.recorder.apart():
                active = always_on(self.model)
                return self.recorder.record(lambda: active(self.x))
        except Exception as error:
            self.refusal = _said(error)
            return None

    def calls(self, layer, calls):
        return [call for call in calls or () if call.layer is layer]

    def row(self, layer):
        """Returns what there is to say of a layer, or `None` if it does not draw. Notes what is wrong with it."""
        fit, predict = ([c for c in self.calls(layer, calls) if not c.repeats] for calls in (self.fit, self.predict))
        known = next((call for call in fit + predict if call.concrete), None)
        rate, declared = self.rates[layer], _declares(layer)
        try:
            draws = self.drawn_by(layer, known)
            can, repeats = self.can_draw(layer, known, draws)
        except Diverged:
            draws, can, repeats = None, None, False
        except Exception as error:
            if not declared:
                return None
            self.find(
                layer, "fails", ERROR, f"it cannot be called by itself in training: {_said(error)}", "Mend the layer."
            )
            draws, can, repeats = None, None, False
        if not (declared or can):
            return None
        self.draws[layer] = draws
        in_fit, in_predict, in_always = (
            self.draws_in(calls, can) for calls in (fit, predict, self.calls(layer, self.always))
        )
        share = z = None
        if draws and _is_share(layer) and rate is not None and (draws.is_mask or not draws.changes):
            share = draws.share
            z = draws.share_z(rate) if 0 < rate < 1 else None
            if z is not None and not draws.changes:
                can = self.can_still(known, rate, draws)
                in_fit = None if can is None else in_fit or (can and any(call.training for call in fit))
        row = AuditedLayer(
            self.paths[layer],
            type(layer).__name__,
            rate,
            in_fit,
            in_predict,
            in_always if self.always else None,
            share,
            z,
        )
        self.check_calls(layer, row, fit, predict, can)
        self.check_numbers(layer, row, draws, repeats)
        return row

    def drawn_by(self, layer, call):
        """Returns the draws of a layer that returns its input at inference, `None` for others."""
        if isinstance(layer, (AUGMENTATION, keras.layers.GaussianNoise)) or call is None:
            return None
        if isinstance(layer, MultiHeadAttention):
            return None
        return draws_of(call) if not held_layers(layer) else None

    def can_draw(self, layer, call, draws):
        """Returns whether a layer draws if it is told to train, if that is known, and whether always the same."""
        if call is None:
            return None, False
        declared = _declares(layer)
        if draws:
            repeats = draws.repeats()
            return draws.changes and (declared or draws.is_product or not repeats), repeats
        plain = self.recorder.again(call, False)
        if _differ(plain, self.recorder.again(call, False)):
            return True, False
        first = self.recorder.again(call, True)
        changed, tries = _differ(first, plain), 0
        for tries in range(TRIES if declared else 8):
            other = self.recorder.again(call, True)
            if _differ(first, other):
                return True, False
            if changed and tries >= 7:
                break
        # What is the same each time may be no draw, as the statistics of a batch.
        return declared and changed, declared and changed

    def can_still(self, call, rate, draws):
        """Returns whether a layer of which nothing was seen draws, which it may once a call; `None` if too rarely."""
        tries = min(math.ceil(CERTAIN / rate), MOST_TRIES)
        if any(_differ(self.recorder.again(call, True), call.args[0]) for _ in range(tries)):
            return True
        return False if rate * max(tries, draws.groups) >= CERTAIN else None

    def draws_in(self, calls, can):
        if not calls:
            return None
        seen = {self.draws_at(call, can) for call in calls}
        return True if True in seen else None if None in seen else False

    def draws_at(self, call, can):
        if call.training and can:
            return True
        unknown = None if call.training and can is None else False
        if not call.concrete:
            return unknown
        try:
            return _differ(call.outputs, self.recorder.again(call, False)) or unknown
        except Diverged:
            return unknown

    def check_calls(self, layer, row, fit, predict, can):
        """When the layer draws."""
        if self.fit is None or row.rate == 0:
            pass
        elif not fit and not predict:
            self.find(
                layer,
                "never-called",
                ERROR,
                "it is never called",
                "Call it in the `call` of the layer or model that holds it, or delete it.",
            )
        elif self.told and row.fit is False and not any(call.training for call in fit):
            told = fit[0].training
            caller = fit[0].caller
            by = f" by {self.paths[caller.layer]}" if caller else ""
            but = f", which is told training={caller.training}" if caller and caller.training is not None else ""
            self.find(
                layer,
                "off-in-fit",
                ERROR,
                f"it does not draw in fit: it is told training={told}{by}{but}",
                "Call the layer itself, not its `call`, and leave `training` out or pass on what you are told.",
            )
        elif self.told and row.fit is False:
            self.find(
                layer,
                "never-drops",
                ERROR,
                "it draws nothing, though it is told training=True",
                "Look into its `call`: what else does it ask for?",
            )
        elif not fit and self.told:
            self.find(
                layer,
                "off-in-fit",
                ERROR,
                "it is called in predict, but not in fit",
                "Call it when training too.",
            )
        if row.predict and layer in self.by_always_on:
            self.find(layer, "on-in-predict", NOTE, "it draws in predict, by always_on", "That is what was asked for.")
        elif row.predict:
            told = any(call.training for call in predict)
            why = "training=True is hard-wired where it is called" if told else "whatever it is told of training"
            self.find(
                layer,
                "on-in-predict",
                WARNING,
                f"it draws in predict: {why}",
                "Leave `training` out. For dropout in predict there is keras_dropouts.always_on.",
            )
        if wired_on(layer) and row.predict is False and row.rate != 0:
            self.find(
                layer,
                "hard-wired",
                WARNING,
                "training=True was given where the graph was made, and this Keras overrides it: it does not draw in "
                "predict",
                "Leave `training` out. For dropout in predict there is keras_dropouts.always_on.",
            )
        if row.fit and row.always_on is not True and self.always and not isinstance(layer, _NO_DROPOUT):
            self.find(
                layer,
                "off-in-always-on",
                NOTE,
                "it does not draw in always_on",
                "Draw with a `keras.random.SeedGenerator` that the layer owns, and only if it is told training=True.",
            )

    def check_numbers(self, layer, row, draws, repeats):
        """How much it draws."""
        rate, dtype = row.rate, keras.backend.standardize_dtype(layer.compute_dtype)
        if rate == 0:
            self.find(layer, "rate-0", NOTE, "its rate is 0: it drops nothing", "Give it a rate, or delete it.")
        elif rate == 1 and _is_share(layer):
            self.find(
                layer,
                "rate-1",
                ERROR,
                "its rate is 1: it drops everything",
                "A rate is the share that is dropped, not kept.",
                share=row.share,
            )
        if repeats and rate != 1:
            self.find(
                layer,
                "same-every-batch",
                ERROR,
                "it draws the same in each batch",
                "Draw with a `keras.random.SeedGenerator` made once, in `__init__`, not with an integer seed.",
            )
        elif row.z is not None and abs(row.z) > SIGMAS and row.fit is not False:
            known = (
                f" Keras's {type(layer).__name__} draws in {dtype}, too coarse for this rate."
                if dtype in ("bfloat16", "float16") and not _is_own(layer)
                else ""
            )
            self.find(
                layer,
                "rate",
                ERROR,
                f"it drops {row.share:.4g} where its rate is {rate:g}, {row.z:+.1f} standard errors.{known}",
                "Take the layer of the same name in keras_dropouts, or give it dtype='float32'."
                if known
                else "Look into its `call`: which rate does it drop at?",
                share=row.share,
                rate=rate,
                z=row.z,
            )
        elif draws and draws.changes and (draws.is_product or isinstance(layer, keras.layers.GaussianDropout)):
            z = draws.mean_z() if _is_share(layer) or isinstance(layer, keras.layers.GaussianDropout) else 0
            if abs(z) > SIGMAS and rate != 1:
                self.find(
                    layer,
                    "mean",
                    ERROR,
                    f"it multiplies by {draws.mean:.4g} on average, and at inference by 1, {z:+.1f} standard errors",
                    "Divide what is kept by 1 - rate.",
                    mean=draws.mean,
                    z=z,
                )

    def check_masks(self):
        """Whether two layers draw the same."""
        known = {}
        for layer, draws in self.draws.items():
            calls = [c for c in self.calls(layer, self.fit) if c.concrete and c.training and not c.repeats]
            if calls and draws and draws.is_product:
                known[layer] = calls[0], numbers(calls[0].args[0]), numbers(calls[0].outputs)
        twins = set()
        for one, other in itertools.combinations(known, 2):
            if other in twins:
                continue
            call, x, y = known[one]
            further, u, v = known[other]
            equal = False
            if x.shape == u.shape:
                both = (x != 0) & (u != 0)
                groups = min(
                    self.draws[layer].groups * len(x) / len(self.draws[layer].dropped[0]) for layer in (one, other)
                )
                equal = same((y == 0)[both], (v == 0)[both], groups * both.mean()) if both.any() else False
            # One after the other, the second finds nothing left to drop.
            if equal or (call.states and call.states == further.states and self.same_from(call, further)):
                twins.add(other)
                self.find(
                    other,
                    "same-as-another",
                    WARNING,
                    f"it draws the same mask as {self.paths[one]}",
                    "Give each layer another seed, or one `keras.random.SeedGenerator` to all.",
                )

    def same_from(self, call, other):
        """Whether the layers of two calls, from the states of then, draw the same for inputs of one shape."""
        x = ops.ones_like(ops.convert_to_tensor(call.args[0]))
        try:
            masks = []
            for each in (call, other):
                with self.recorder.apart():
                    self.recorder.set_states(each)
                    masks.append(numbers(each.made_with(x, training=True)) == 0)
        # It is not made for that shape.
        except Exception:
            return False
        return same(*masks, groups_of(masks[0]))

    def check_backward(self):
        """Whether the backward pass is that of the forward pass, by checkpointing too."""
        for layer, draws in self.draws.items():
            calls = [call for call in self.calls(layer, self.fit) if call.concrete]
            forward = [call for call in calls if not call.repeats]
            wrong = None
            for call in (call for call in calls if call.repeats):
                alike = [each for each in forward if _equal(each.args, call.args)]
                if alike and all(_differ(each.outputs, call.outputs) for each in alike):
                    wrong = "checkpointing calls it again in the backward pass, where it draws another mask"
            if not wrong and draws and draws.changes and self.rates[layer] != 1 and not isinstance(layer, ShakeDrop):
                wrong = self.wrong_gradient(forward[0] if forward else None, draws)
            if wrong:
                self.find(
                    layer,
                    "backward",
                    ERROR,
                    f"its gradient is not that of its forward pass: {wrong}",
                    "Take a layer of keras_dropouts, which repeats its mask, or leave it out of what is checkpointed.",
                )

    def wrong_gradient(self, call, draws):
        if call is None or not (draws.is_mask or isinstance(call.layer, keras.layers.GaussianDropout)):
            return None
        try:
            with self.recorder.apart():
                for _ in range(2):
                    y, gradient = product_and_gradient(call, ops.ones_like(call.args[0]))
                    y = numbers(y)
                    gradient = np.zeros_like(y) if gradient is None else numbers(gradient)
                    off = (y <= 0) != (gradient == 0) if draws.is_mask else abs(y - gradient) > 2 * draws.precision
                    if off.any():
                        return f"of {off.size} elements {off.sum()} differ"
        except Exception as error:
            return _said(error)
        return None

    def check_replicas(self):
        """Whether each replica draws a mask of its own."""
        for layer, draws in self.draws.items():
            call = next((call for call in self.calls(layer, self.fit) if call.concrete), None)
            masks = on_replicas(self.model, call) if call and draws and draws.is_product else []
            masks = [numbers(y) == 0 for y in masks]
            if len(masks) > 1 and same(masks[0], masks[1], groups_of(masks[0])):
                self.find(
                    layer,
                    "same-on-replicas",
                    ERROR,
                    f"all {len(masks)} replicas draw the same mask",
                    "Take the layer of the same name in keras_dropouts, which draws by the replica.",
                )

    def check_outputs(self):
        """Whether what leaves the model is dropped."""
        if not self.fit:
            return
        outputs = [numbers(y) for y in tensors(self.outputs)]
        for layer, draws in self.draws.items():
            for call in self.calls(layer, self.fit):
                if not (draws and draws.changes and self.rates[layer] != 1 and call.training and call.concrete):
                    continue
                y = numbers(call.outputs)
                fits = [each.ravel() for each in outputs if each.size == y.size]
                if any(_close(y.ravel(), each) for each in fits):
                    # A backbone, to which others add the rest, may end so.
                    backbone = not self.model.compiled and y.ndim > 2
                    self.find(
                        layer,
                        "on-output",
                        NOTE if backbone else WARNING,
                        "what it drops is the output of the model",
                        "Put it before the last layer with weights.",
                    )
                    break
                squashed = _softmax(y), 1 / (1 + np.exp(-y))
                if any(_close(one.ravel(), each) for one in squashed for each in fits):
                    self.find(
                        layer,
                        "on-logits",
                        WARNING,
                        "it drops logits: a class whose logit is dropped is not less likely for it",
                        "Put it before the layer that makes the logits.",
                    )
                    break

    def check_norms(self):
        """Whether a batch normalization learns the variance of what dropout makes larger (arXiv 1801.05134)."""
        norms = [layer for layer in self.norms if layer.trainable]
        dropping = [
            layer for layer, draws in self.draws.items() if draws and draws.changes and self.calls(layer, self.fit)
        ]
        if not norms or not dropping or not self.fit:
            return
        # Of what is read at inference, but that batches are normalized by themselves, as when training.
        without = self.recorder.record(self.forward, self.draws)
        blamed = {}
        for norm in norms:
            if _shift(norm, self.fit, without) > SHIFT:
                before = self.fit[: self.fit.index(self.calls(norm, self.fit)[0])]
                nearest = next((call.layer for call in reversed(before) if call.layer in dropping), None)
                if nearest:
                    blamed.setdefault(nearest, []).append(norm)
        # One draw may be large by chance.
        runs = [self.recorder.record(self.forward) for _ in range(RUNS)] if blamed else []
        for layer, near in blamed.items():
            without = self.recorder.record(self.forward, {layer})
            shifts = {norm: np.array([_shift(norm, run, without) for run in runs]) for norm in near}
            norm = max(shifts, key=lambda norm: shifts[norm].mean())
            shift, error = shifts[norm].mean(), shifts[norm].std(ddof=1) / np.sqrt(RUNS)
            if shift - 2 * error > SHIFT:
                self.find(
                    layer,
                    "before-batch-normalization",
                    WARNING,
                    f"by it {self.paths[norm]} reads {shift:.2f} times the variance in training that it reads at "
                    "inference, where it divides by that of training",
                    "Put the dropout after the last batch normalization, or lower its rate (arXiv 1801.05134).",
                    ratio=float(shift),
                )

    def forward(self):
        self.model(self.x, training=True)

    def check_seeds(self):
        """Whether some layers have a seed and others not."""
        seeds = {layer: layer.seed for layer in self.draws if hasattr(layer, "seed") and self.rates[layer] != 0}
        seeded = [layer for layer, seed in seeds.items() if seed is not None]
        unseeded = [self.paths[layer] for layer, seed in seeds.items() if seed is None]
        if seeded and unseeded:
            self.find(
                next(layer for layer, seed in seeds.items() if seed is None),
                "unseeded",
                WARNING,
                f"{', '.join(unseeded)} draw{'s' * (len(unseeded) == 1)} without a seed, and {self.paths[seeded[0]]} "
                f"with one: a run cannot be repeated",
                "Give a seed of its own to each, or none to any and call keras.utils.set_random_seed.",
            )


_NO_DROPOUT = (keras.layers.GaussianNoise, AUGMENTATION)


def _paths(model, layers):
    paths = {}

    def walk(layer, path):
        if layer not in paths:
            paths[layer] = path
            for part in held_layers(layer):
                walk(part, f"{path}/{part.name}" if layer is not model else part.name)

    walk(model, model.name)
    for layer in layers:
        walk(layer, layer.name)
    return paths


def _served(layers):
    """Returns what draws, if at all, for or by the layer that holds it."""
    served = {layer.cell for layer in layers if isinstance(layer, keras.layers.RNN)}
    served |= {layer.layer for layer in layers if isinstance(layer, LayerWrapper)}
    served |= {layer.dropout_layer for layer in layers if isinstance(layer, MultiHeadAttention)} - {None}
    for layer in layers:
        if isinstance(layer, ATTENTION) and not layer.dropout:
            # It holds a dropout all the same, and never calls it.
            served |= {part for part in held_layers(layer) if isinstance(part, keras.layers.Dropout)}
    return served


def _is_own(layer):
    """Whether a layer is of a class that is neither Keras's nor ours."""
    return type(layer).__module__.split(".")[0] not in ("keras", "keras_dropouts")


def _is_whole(layer):
    """Whether what a layer draws itself must be told from what the layers do that it calls."""
    return _is_own(layer) and not isinstance(layer, (SeededLayer, MultiHeadAttention))


def _may_draw(layer):
    if _declares(layer):
        return True
    # A graph draws nothing that its layers do not.
    graph = isinstance(layer, keras.Sequential) or hasattr(layer, "operations")
    return _is_own(layer) and not graph and not isinstance(layer, keras.layers.InputLayer)


def _declares(layer):
    """Whether a layer says that it draws: by a seed generator, or by its class."""
    if isinstance(layer, keras.layers.RNN):
        parts = all_layers(layer.cell)
        if any(hasattr(part, "recurrent_dropout") for part in parts):
            return any(getattr(part, name, 0) for part in parts for name in ("dropout", "recurrent_dropout"))
        return any(seed_generators(part) for part in parts)
    if isinstance(layer, MultiHeadAttention):
        return layer.dropout_layer is not None
    if isinstance(layer, (*DROPOUT, SeededLayer)):
        return True
    named = "drop" in type(layer).__name__.lower() and not held_layers(layer) and _rate_of(layer) is not None
    return bool(seed_generators(layer)) or (_is_own(layer) and named)


def _rate_of(layer):
    """Returns the share that a layer was asked to drop, or `None`."""
    if isinstance(layer, keras.layers.RNN):
        parts = all_layers(layer.cell)
        return max(
            (float(getattr(part, name, 0) or 0) for part in parts for name in ("dropout", "recurrent_dropout")),
            default=None,
        )
    if isinstance(layer, MultiHeadAttention):
        return _rate_of(layer.dropout_layer) if layer.dropout_layer else 0.0
    if isinstance(layer, RandomLayer):
        return layer.current_rate() if layer.parameter == "rate" else None
    for name in RATES:
        value = getattr(layer, name, None)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1:
            return float(value)
    return None


def _is_share(layer):
    """Whether the rate of a layer is the share of elements that it drops, rather than a measure of its own."""
    if isinstance(layer, keras.layers.GaussianDropout):
        return False
    return isinstance(layer, (keras.layers.Dropout, keras.layers.AlphaDropout)) or _is_own(layer)


def _said(error):
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"


def _pairs(one, other):
    return [(numbers(a), numbers(b)) for a, b in zip(tensors(one), tensors(other), strict=True)]


def _differ(one, other):
    """Whether two results are not the same but for rounding."""
    if len(tensors(one)) != len(tensors(other)):
        return True
    return any(a.shape != b.shape or not _close(a, b) for a, b in _pairs(one, other))


def _equal(one, other):
    pairs = _pairs(one, other) if len(tensors(one)) == len(tensors(other)) else [(0, 1)]
    return all(np.array_equal(a, b) for a, b in pairs)


def _close(a, b):
    return np.allclose(a, b, rtol=0, atol=1e-5 * np.max(np.abs(a), initial=0), equal_nan=True)


def _softmax(y):
    powers = np.exp(y - y.max(-1, keepdims=True, initial=-np.inf))
    return powers / powers.sum(-1, keepdims=True)


def _shift(norm, calls, others):
    """Returns how many times the variance that a batch normalization reads is that of other calls, over channels."""
    ratios = []
    for one, other in zip(
        *([c for c in each if c.layer is norm and not c.repeats] for each in (calls, others)), strict=False
    ):
        if one.concrete and other.concrete and one.training:
            before, after = (numbers(call.args[0]) for call in (other, one))
            axes = tuple(axis for axis in range(before.ndim) if axis != norm.axis % before.ndim)
            before, after = before.var(axes), after.var(axes)
            some = (before > 0) & (after > 0)
            ratios += list(np.log(after[some] / before[some]))
    return float(np.exp(np.mean(ratios))) if ratios else 1.0
