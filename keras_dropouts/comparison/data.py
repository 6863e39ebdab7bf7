"""The data of a comparison: arrays, batches, tables, folders of images; read, checked, split."""

import functools
import hashlib
import json
import pathlib
import warnings

import keras
import numpy as np

from keras_dropouts.comparison.candidate import one_line, require
from keras_dropouts.comparison.task import checked_labels, task_of

# Of a data set that comes in one part, this share is the test data.
TEST_SHARE = 0.2
# A column with more values than these has the rarest of them as one.
CATEGORIES = 30
NAMES = "x_train", "y_train", "x_test", "y_test"
# Pixels of a side of the images of a folder, where no model says it.
IMAGE_SIZE = 64


class Data:
    """Training data, of which folds validate, and test data.

    Args:
        train, test: `(x, y)`; x an array, a structure of arrays for a model with several inputs, or a pandas table.
        task: The `Task`, or `None`: what the labels say.
        metric: The metric, or `None`: the first of the task.
        columns: The values of each column of a table that is no number, by name; `None` where x is no table.
        classes: The names of the classes, if they have any.
        note: What was done to the data, for the report.
    """

    def __init__(self, train, test, task=None, metric=None, columns=None, classes=None, note=""):
        self.columns, self.classes, self.note = columns, classes, note
        (x_train, y_train), (x_test, y_test) = train, test
        self.task = task_of(y_train, task, metric)
        if columns is None:
            x_train, x_test = _checked_inputs(x_train, "x_train"), _checked_inputs(x_test, "x_test")
        samples = [len(keras.tree.flatten(x)[0]) for x in (x_train, x_test)]
        self.y_train = checked_labels(self.task.kind, y_train, "y_train", samples[0])
        self.y_test = checked_labels(self.task.kind, y_test, "y_test", samples[1])
        self.x_train, self.x_test = x_train, x_test
        if columns is None:
            shapes = [keras.tree.map_structure(lambda x: x.shape[1:], x) for x in (x_train, x_test)]
            if shapes[0] != shapes[1]:
                raise ValueError(
                    f"x_train and x_test must hold samples of one shape. "
                    f"Received: samples of shape {shapes[0]} and {shapes[1]}"
                )
        if self.task.kind in ("classification", "tokens"):
            self._check_classes()
        elif self.y_train.shape[1:] != self.y_test.shape[1:]:
            raise ValueError(
                f"y_train and y_test must have the same shape but for the samples. "
                f"Received: {self.y_train.shape} and {self.y_test.shape}"
            )

    def _check_classes(self):
        labels = np.unique(self.y_train[self.y_train >= 0] if self.task.kind == "tokens" else self.y_train)
        if len(labels) < 2 or labels[0] != 0 or labels[-1] != len(labels) - 1:
            raise ValueError(
                f"y_train must hold two or more labels, numbered from 0 without gaps. (For numbers that are no labels, "
                f"the task is regression.) Received: {len(labels)} labels from {labels[:1]} to {labels[-1:]}"
            )
        known = np.isin(self.y_test, labels) | ((self.y_test < 0) & (self.task.kind == "tokens"))
        if not known.all():
            raise ValueError(
                f"y_test must hold labels that y_train has, 0 to {labels[-1]}. "
                f"Received: labels from {self.y_test.min()} to {self.y_test.max()}"
            )

    def checksum(self):
        """Returns a digest of all numbers and names."""
        digest = hashlib.sha256()
        for x in (self.x_train, self.x_test):
            if self.columns is not None:
                import pandas as pd

                digest.update(json.dumps([list(map(str, x.columns)), list(map(str, x.dtypes))]).encode())
                digest.update(pd.util.hash_pandas_object(x, index=False).to_numpy().tobytes())
            else:
                for array in keras.tree.flatten(x):
                    digest.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        for y in (self.y_train, self.y_test):
            digest.update(f"{y.dtype}{y.shape}".encode() + np.ascontiguousarray(y).tobytes())
        return digest.hexdigest()

    def folds(self, folds, seed):
        """Returns the rows of each fold, all of one number, with as many of each class as can be.

        What is left over is in no fold, and always trains: training sets of two sizes would be compiled twice.
        """
        order = np.random.default_rng(seed).permutation(len(self.y_train))
        if self.task.kind == "classification":
            order = order[np.argsort(self.y_train[order], kind="stable")]
        size = len(order) // folds
        if not size:
            raise ValueError(
                f"`folds` must be the training samples at most. Received: folds={folds} for {len(order)} samples"
            )
        return [order[fold : size * folds : folds] for fold in range(folds)]

    def fold(self, validating):
        """Returns the training and the validation part, `(x, y)` each; these rows validate."""
        training = np.setdiff1d(np.arange(len(self.y_train)), validating)
        x, other = (self.rows(self.x_train, rows) for rows in (training, validating))
        if self.columns is not None:
            transformer = self.transformer().fit(x)
            x, other = (_dense(transformer, each) for each in (x, other))
        return (x, self.y_train[training]), (other, self.y_train[validating])

    def whole(self):
        """Returns the training and the test data, `(x, y)` each."""
        x, other = self.x_train, self.x_test
        if self.columns is not None:
            transformer = self.transformer().fit(x)
            x, other = (_dense(transformer, each) for each in (x, other))
        return (x, self.y_train), (other, self.y_test)

    def rows(self, x, rows):
        return x.iloc[rows] if self.columns is not None else keras.tree.map_structure(lambda array: array[rows], x)

    def transformer(self):
        """Returns scikit-learn's transformer of a table to numbers, not fitted: to what it is fitted, the caller says.

        Numbers are filled with the median, and a column says where they were, and standardized; other columns become
        one column for each value, of which missing is one. The values are those of all training data, so that there are
        as many columns in each fold.
        """
        from sklearn.compose import ColumnTransformer
        from sklearn.impute import MissingIndicator, SimpleImputer
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder, StandardScaler

        words = list(self.columns)
        numbers = [name for name in self.x_train.columns if name not in self.columns]
        holes = [name for name in numbers if self.x_train[name].isna().any()]
        encoder = OneHotEncoder(
            categories=[self.columns[name] for name in words],
            handle_unknown="infrequent_if_exist",
            max_categories=CATEGORIES,
            sparse_output=False,
        )
        filled = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler())
        steps = [
            ("numbers", filled, numbers),
            ("missing", MissingIndicator(features="all"), holes),
            ("words", encoder, words),
        ]
        return ColumnTransformer([step for step in steps if step[2]])


def _dense(transformer, x):
    with warnings.catch_warnings():
        # Of values that a fold lacks.
        warnings.filterwarnings("ignore", "Found unknown categories", UserWarning)
        return np.asarray(transformer.transform(x), "float32")


def _checked_inputs(x, name):
    """Returns x as an array of float32, or a structure of them, after a look at whether those are numbers."""

    def array(x):
        try:
            x = np.asarray(x)
        except Exception as error:  # A tensor or table of another library may raise anything.
            raise ValueError(f"{name} and {name.replace('x', 'y', 1)} must be arrays. {one_line(error)}") from error
        if x.dtype.kind not in "biuf" or x.ndim < 1 or not x.size:
            raise ValueError(
                f"{name} must be an array of numbers, one row or image for each sample. "
                f"Received: an array of {x.dtype} and shape {x.shape}"
            )
        x = x.astype("float32")
        if not np.isfinite(x).all():
            raise ValueError(f"{name} must hold finite numbers: replace what is NaN or infinite in float32.")
        return x

    x = keras.tree.map_structure(array, x) if isinstance(x, (dict, tuple)) else array(x)
    if len({len(each) for each in keras.tree.flatten(x)}) > 1:
        raise ValueError(f"{name} must hold as many samples for each input. Received: {keras.tree.flatten(x)}")
    return x


def checked_data(data, task=None, metric=None):
    """Returns `data` as `Data`."""
    if isinstance(data, Data):
        return data
    wrong = "`data` must be a pair of pairs of arrays, (x_train, y_train), (x_test, y_test), or of two data sets."
    try:
        train, test = data
    except (TypeError, ValueError):
        raise ValueError(wrong) from None
    parts = []
    for name, part in (("train", train), ("test", test)):
        if not isinstance(part, (tuple, list)):
            part = _gathered(part, name, wrong)
        if len(part) != 2:
            raise ValueError(wrong)
        x, y = part
        try:
            parts.append((x, np.asarray(y)))
        except Exception as error:
            raise ValueError(f"x_{name} and y_{name} must be arrays. {one_line(error)}") from error
    return Data(*parts, task, metric)


def _gathered(batches, name, wrong):
    """Returns the arrays of a data set that yields batches `(x, y)`, as a tf.data.Dataset or a DataLoader does."""
    if isinstance(batches, keras.utils.PyDataset):
        batches = [batches[i] for i in range(batches.num_batches)]
    try:
        pairs = [(batch[0], batch[1]) for batch in batches]
    except (TypeError, ValueError, IndexError, KeyError):
        pairs = []
    if not pairs:
        raise ValueError(
            f"{wrong} A data set must yield batches (x, y), some at least, and end. Received for {name}: {batches!r}"
        )

    def joined(*arrays):
        return np.concatenate([np.asarray(array) for array in arrays])

    def structure(x):
        return tuple(x) if isinstance(x, list) else x

    x = keras.tree.map_structure(joined, *(structure(x) for x, _ in pairs))
    return x, joined(*(y for _, y in pairs))


def load(name, target=(), task=None, metric=None, seed=0, size=None):
    """Returns the data that `name` says, grey images with a channel axis.

    Args:
        name: `digits`, `fashion_mnist`, a path that ends in .npz, .csv or .parquet, or a folder of images.
        target: The names of the columns of a table that are to be predicted.
        task, metric: As for `compare`.
        seed: Of the split, where the data has no test part.
        size: Height and width of the images of a folder, or `None`.
    """
    path = pathlib.Path(name)
    readers = {".npz": _read_arrays, ".csv": _read_table, ".parquet": _read_table}
    if target and path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"--target is for the columns of a table, .csv or .parquet. Received: --data {name}")
    if name in ("digits", "fashion_mnist"):
        read = functools.partial(_digits if name == "digits" else _fashion_mnist, task, metric)
    elif path.is_dir():
        read = functools.partial(_read_images, path, size, task, metric, seed)
    elif path.suffix in readers:
        if not path.is_file():
            raise ValueError(f"no file {path}: give --data the path of a {path.suffix} file")
        read = functools.partial(readers[path.suffix], path, target, task, metric, seed)
    else:
        raise ValueError(
            f"--data must be digits, fashion_mnist, a path that ends in .npz, .csv or .parquet, or a folder of images. "
            f"Received: {name}"
        )
    try:
        return read()
    except ValueError as error:
        raise ValueError(f"--data {name}: {error}") from None


def _digits(task, metric):
    require("sklearn")
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = x.reshape(-1, 8, 8, 1)
    return Data((x[:1024], y[:1024]), (x[1024:], y[1024:]), task, metric)


def _fashion_mnist(task, metric):
    try:
        (x_train, y_train), (x, y) = keras.datasets.fashion_mnist.load_data()
    except Exception as error:  # Keras raises no narrower one.
        raise OSError(f"Fashion-MNIST could not be loaded, use other data: {error}") from error
    return Data((x_train[:4096, ..., None], y_train[:4096]), (x[..., None], y), task, metric)


def _read_arrays(path, target, task, metric, seed):
    try:
        # Opened here: of one that it cannot read, NumPy would leave the file open.
        with path.open("rb") as opened, np.load(opened) as file:
            found = {name: file[name] for name in NAMES if name in file.files}
    except Exception as error:  # What a broken file makes zipfile and NumPy raise is of a dozen kinds.
        raise ValueError(
            f"no readable .npz file of plain arrays: write it with numpy.savez(path, x_train=..., ...). "
            f"{error.__class__.__name__}: {error}"
        ) from None
    missing = [name for name in NAMES if name not in found]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}: it must hold the arrays {', '.join(NAMES)}")
    x_train, y_train, x_test, y_test = found.values()
    if x_train.ndim == x_test.ndim == 3:
        x_train, x_test = x_train[..., None], x_test[..., None]
    return Data((x_train, y_train), (x_test, y_test), task, metric)


def _read_table(path, target, task, metric, seed):
    require("pandas", "sklearn", *["pyarrow"] * (path.suffix == ".parquet"))
    import pandas as pd

    try:
        table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except Exception as error:  # As many kinds as there are broken files.
        raise ValueError(f"no readable table: {error.__class__.__name__}: {one_line(error)}") from None
    table.columns = [str(name) for name in table.columns]
    unknown = [name for name in target if name not in table.columns]
    if unknown or not target or len(set(target)) == len(table.columns):
        raise ValueError(
            f"--target must name a column that is to be predicted, and leave others to predict it from. Its columns: "
            f"{', '.join(table.columns)}. Received: --target {' '.join(target)}"
        )
    whole = table.dropna(subset=list(target))
    y, classes, task = _targets(whole[list(target)], task)
    x = whole.drop(columns=list(target))
    columns = {}
    for name in x.columns:
        if pd.api.types.is_numeric_dtype(x[name]) and not pd.api.types.is_bool_dtype(x[name]):
            values = x[name].astype("float64")
            x[name] = values.where(np.isfinite(values))
        else:
            x[name] = x[name].astype(object).where(x[name].notna(), "(missing)").astype(str)
            columns[name] = None
    train, test = _split(y, task_of(y, task).kind == "classification", seed)
    for name in columns:
        columns[name] = sorted(x[name].iloc[train].unique())
    note = f"{len(table) - len(whole)} rows without a target were left out. " if len(table) > len(whole) else ""
    note += f"{len(test)} of {len(y)} rows, drawn by chance, are the test data."
    return Data((x.iloc[train], y[train]), (x.iloc[test], y[test]), task, metric, columns, classes, note)


def _targets(table, task):
    """Returns the target columns as labels or numbers, the names of the classes if it is one of them, and the task."""
    import pandas as pd

    if len(table.columns) > 1:
        try:
            return table.to_numpy("float64"), None, task
        except (TypeError, ValueError) as error:
            raise ValueError(f"--target: several columns must hold numbers, or 0 and 1. {one_line(error)}") from None
    column = table.iloc[:, 0]
    number = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    whole = not number or bool((column == column.round()).all())
    if task is None and not (number and not whole):
        if column.nunique() > CATEGORIES:
            raise ValueError(
                f"--task must say whether {column.name} is a class or a number: it has {column.nunique()} values. "
                f"Give --task classification or --task regression."
            )
        task = "classification"
    if task == "classification":
        codes, classes = pd.factorize(column, sort=True)
        return codes, [str(name) for name in classes], task
    if not number:
        raise ValueError(f"--target must name a column of numbers for {task or 'regression'}. Received: {column.name}")
    return column.to_numpy("float64"), None, task or "regression"


def _split(y, stratified, seed):
    """Returns the rows that train and those that test."""
    from sklearn.model_selection import train_test_split

    stratified = stratified and np.unique(y, return_counts=True)[1].min() > 1
    rows = np.arange(len(y))
    try:
        parts = train_test_split(rows, test_size=TEST_SHARE, random_state=seed, stratify=y if stratified else None)
    except ValueError as error:
        raise ValueError(f"it has too few samples to keep a fifth of them for the test: {one_line(error)}") from None
    return [np.sort(part) for part in parts]


def _read_images(path, size, task, metric, seed):
    require("sklearn")
    size = size or (IMAGE_SIZE, IMAGE_SIZE)
    parts = [path / name for name in ("train", "test")]
    given = all(part.is_dir() for part in parts)
    sets = []
    for part in parts if given else [path]:
        try:
            read = keras.utils.image_dataset_from_directory(part, image_size=size, shuffle=False, verbose=False)
        except (ValueError, ImportError) as error:
            raise ValueError(
                f"no folder of images, with a folder for each class, or such folders in train and test: "
                f"{one_line(error)}"
            ) from None
        sets.append((*_gathered(read, part.name, ""), read.class_names))
    x, y, classes = sets[0]
    if given:
        if sets[1][2] != classes:
            raise ValueError(f"train and test must hold the same classes. Received: {classes} and {sets[1][2]}")
        return Data((x, y), sets[1][:2], task, metric, classes=classes)
    train, test = _split(y, True, seed)
    note = f"{len(test)} of {len(y)} images, drawn by chance, are the test data."
    return Data((x[train], y[train]), (x[test], y[test]), task, metric, classes=classes, note=note)
