"""Draws images/gallery.png: what each layer of the catalogue makes of real inputs, a panel for each row.

`python tests/gallery.py` writes it.
"""

import pathlib

import keras
import numpy as np
from backend import to_numpy, train
from catalog import ROWS, doubling, lstm
from matplotlib.figure import Figure
from sklearn.datasets import load_digits, load_sample_image

from keras_dropouts.comparison.figure import painted

PICTURE = pathlib.Path(__file__).parents[1] / "images" / "gallery.png"
RATE = 0.3
# A panel with few draws may drop nothing: drawn is, of so many calls, the one that drops the share nearest to RATE.
CALLS = 10
BLUE = 0.3, 0.6, 1.0
COLUMNS = 4
# Of a panel, the title above it and the margin beside it, in pixels.
HEIGHT, WIDTH, TITLE, MARGIN = 176, 396, 36, 24


def image():
    """Two photographs: brightness, its change downwards, and to the right. (2, 14, 21, 3)"""
    photos = [load_sample_image(name)[:420, :630].mean(-1) for name in ("china.jpg", "flower.jpg")]
    gray = np.reshape(photos, (2, 14, 30, 21, 30)).mean((2, 4))
    return _positive(np.stack([gray, np.gradient(gray, axis=1), np.gradient(gray, axis=2)], -1))


def sequence():
    """Two lines of five handwritten digits, read from left to right, eight pixels at a time. (2, 40, 8)"""
    return _positive(load_digits().images[:10].reshape(2, 5, 8, 8).swapaxes(2, 3).reshape(2, 40, 8))


def volume():
    """Four frames of a camera's move over a photograph: brightness, its change downwards. (1, 4, 14, 22, 2)"""
    gray = load_sample_image("china.jpg")[:420, :640].mean(-1).reshape(21, 20, 32, 20).mean((1, 3))
    frames = np.stack([gray[7 - i : 21 - i, 2 * i : 22 + 2 * i] for i in range(4)])
    return _positive(np.stack([frames, np.gradient(frames, axis=1)], -1)[None])


def weights():
    """The mean handwritten 0, 1, ..., 5, as the weights of six units. (64, 6)"""
    x, y = load_digits(return_X_y=True)
    return 16 * _positive(np.stack([x[y == digit].mean(0) for digit in range(6)], -1))


def states():
    """What an LSTM makes of the sequences. (2, 40, 6)"""
    layer = lstm()
    return to_numpy(layer(feed(layer)[0]))


def _positive(x):
    """Returns each channel of `x` from a little more than 0 to 1."""
    space = tuple(range(x.ndim - 1))
    low, high = x.min(space), x.max(space)
    return (0.02 + 0.98 * (x - low) / (high - low)).astype("float32")


# By the rank of what layers take: inputs, and how they are laid out, in rows and columns of pictures.
INPUTS = {
    4: (image, lambda x: x.transpose(0, 3, 1, 2)),
    3: (sequence, lambda x: x.transpose(0, 2, 1)[:, None]),
    5: (volume, lambda x: x[0].transpose(3, 0, 1, 2)),
    2: (weights, lambda x: x.T.reshape(2, 3, 8, 8)),
}


def input_of(row):
    """Returns which input the panel starts from: the function that reads it."""
    rank = getattr(row.make(RATE).input_spec, "ndim", None)
    if row.wrapped is lstm:
        return states
    if row.wrapped is doubling or row.called:
        return sequence
    if row.wrapped or not (row.parameter or rank):
        return weights
    return INPUTS[rank or 4][0]


def panel(row):
    """Draws what the layer makes of its input in training."""
    layer, past = row.make(RATE), 0
    rank = getattr(layer.input_spec, "ndim", None)
    if row.wrapped is doubling:
        # What is dropped is what it adds to what goes past it.
        read, layout = INPUTS[3]
        x = past = read()
        before = to_numpy(layer(x)) - past
    elif row.wrapped:
        x, layout = feed(layer.layer)
        before = to_numpy(layer.layer(x))
    elif row.called:
        x, layout = feed(layer)
        before = to_numpy(layer(x))
    elif row.plain is keras.layers.Softmax:
        # Its queries are the lines of a picture, its keys the columns.
        read, layout = INPUTS[4]
        x, layout = 3 * layout(read()), lambda x: x
        before = to_numpy(layer(x))
    elif not row.parameter and not rank:
        # Of more features than an image has channels.
        before = x = weights().T
        layout = lambda x: INPUTS[2][1](x.T)  # noqa: E731
    else:
        read, layout = INPUTS[rank or 4]
        x = read()
        before = train(row.make(0.0), row.inputs(x)) if row.parameter else to_numpy(row.plain()(x))
    calls = [train(layer, x if row.by_index else row.inputs(x)) - past for _ in range(CALLS)]
    if row.constant:
        calls = [np.where(np.isclose(after, row.constant(RATE)), 0, after) for after in calls]
    if row.shortens:
        # What is left of a sequence moves to its beginning.
        calls = [np.pad(after, [(0, 0), (0, x.shape[1] - after.shape[1]), (0, 0)]) for after in calls]
    shares = [np.mean(after == 0) or np.inf for after in calls]
    after = calls[np.argmin(np.abs(np.subtract(shares, RATE)))]
    pooled = not row.wrapped and before.shape != x.shape
    return draw(layout(before), layout(after), pooled)


def feed(layer):
    """Sets the weights of a layer that has some. Returns its input, and how its output is laid out."""
    if isinstance(layer, keras.layers.MultiHeadAttention):
        # Each head reads, and writes, half of the channels.
        read, layout = INPUTS[3]
        x = read()
        kernel, no_bias = np.eye(8).reshape(8, 2, 4), np.zeros((2, 4))
        values = 4 * kernel, no_bias, kernel, no_bias, kernel, no_bias, kernel.transpose(1, 2, 0), np.zeros(8)
    elif isinstance(layer, keras.layers.Embedding):
        # All words, each of which is a pixel of six images.
        x, values = np.arange(64)[None], [weights()]
        layout = lambda x: INPUTS[2][1](x[0])  # noqa: E731
    elif isinstance(layer, keras.layers.LSTM):
        # Each unit remembers one of the channels, and its gates, half open, forget half of it at each timestep.
        read, layout = INPUTS[3]
        x = read()
        kernel = np.zeros((8, 4, 6))
        kernel[:, 2] = 2 * np.eye(8)[:, 1:7]
        values = kernel.reshape(8, 24), np.zeros((6, 24)), np.zeros(24)
    else:
        # What a Dense layer makes of inputs that are 1 in one place are its weights.
        read, layout = INPUTS[2]
        x = np.eye(64, dtype="float32")
        values = read(), np.zeros(6)
    layer.build(x.shape)
    layer.set_weights(values)
    return x, layout


def draw(before, after, pooled=False):
    """Draws rows and columns of pictures as one: orange for 0, blue where the largest of a window was dropped."""
    dropped = (after == 0) & (before != 0)
    image = painted(after, dropped, 0, before.max() / (1 - RATE))
    if pooled:
        lower = ~dropped & (after < before)
        image[lower] = (image[lower] + BLUE) / 2
    rows, columns, height, width = after.shape
    cell = HEIGHT // rows, WIDTH // columns
    scale = min((cell[0] - 4) // height, (cell[1] - 4) // width)
    image = image.repeat(scale, 2).repeat(scale, 3)
    margins = [((n - size) // 2, n - size - (n - size) // 2) for n, size in zip(cell, image.shape[2:4], strict=True)]
    image = np.pad(image, ((0, 0), (0, 0), *margins, (0, 0)), constant_values=1)
    return image.swapaxes(1, 2).reshape(HEIGHT, WIDTH, 3)


def panels():
    """Returns the panels by their titles: the inputs, then a panel for each row of the catalogue."""
    shown = *INPUTS.values(), (states, INPUTS[3][1])
    inputs = {read.__name__: draw(layout(read()), layout(read())) for read, layout in shown}
    return inputs | {str(row): panel(row) for row in ROWS}


def sheet(panels):
    """Returns the picture but for its titles."""
    image = np.ones((-(-len(panels) // COLUMNS) * (TITLE + HEIGHT), COLUMNS * (MARGIN + WIDTH), 3))
    for cell, panel in zip(cells(image), panels.values(), strict=False):
        cell[:] = panel
    return image


def cells(image):
    """Returns the parts of the picture that are for panels, as views of it."""
    places = image.reshape(-1, TITLE + HEIGHT, COLUMNS, MARGIN + WIDTH, 3)
    return [place[TITLE:, i, MARGIN:] for place in places for i in range(COLUMNS)]


def save(panels):
    image = sheet(panels)
    height, width, _ = image.shape
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    figure.figimage(image)
    for i, title in enumerate(panels):
        row, column = divmod(i, COLUMNS)
        x, y = MARGIN + WIDTH / 2 + column * (MARGIN + WIDTH), height - TITLE - row * (TITLE + HEIGHT)
        figure.text(x / width, y / height, title, fontsize=15, ha="center", va="bottom")
    figure.savefig(PICTURE, metadata={"Description": ", ".join(panels)})


if __name__ == "__main__":
    save(panels())
