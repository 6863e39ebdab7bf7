"""The finished runs of an experiment, on disk as soon as they are finished."""

import contextlib
import json
import os
import pathlib
import sqlite3
import tempfile
from collections.abc import Callable

from keras_dropouts.comparison.candidate import one_line

JOURNAL = "journal.sqlite"


class Journal:
    """What each finished run came to, by its key; a file of SQLite's, or in memory where `folder` is `None`.

    SQLite writes a run as a whole or not at all, also where the process is killed or the disk is full, and keeps a
    second process out.

    Args:
        folder: The folder of the journal.
        identity: A dictionary, for JSON, of all that the results depend on. A journal of another is refused.

    Raises:
        ValueError: Where the file is the journal of another experiment, or none.
        OSError: Where it cannot be written, or another process has it open.
    """

    def __init__(self, folder: pathlib.Path | None, identity: dict) -> None:
        self.path = None if folder is None else folder / JOURNAL
        with self._explained():
            self.connection = sqlite3.connect(self.path or ":memory:", timeout=0, isolation_level=None)
        try:
            with self._explained():
                self.connection.execute("PRAGMA locking_mode=EXCLUSIVE")
                self.connection.execute("BEGIN IMMEDIATE")
                self.connection.execute("CREATE TABLE IF NOT EXISTS runs (key TEXT PRIMARY KEY, record TEXT NOT NULL)")
                self.connection.execute("COMMIT")
            self._identify(json.loads(json.dumps(identity)))
        except BaseException:
            self.close()
            raise

    def _identify(self, identity):
        # Beside the runs, for it is written and read as they are.
        found = self.get("experiment")
        if found is None:
            self.put("experiment", identity)
        elif found != identity:
            names = [name for name in {**found, **identity} if found.get(name) != identity.get(name)]
            changes = [f"{name} ({_short(found.get(name))}, now {_short(identity.get(name))})" for name in names]
            raise ValueError(
                f"`out` holds another experiment, which differs in {', '.join(changes)}: give another folder, or "
                f"delete that one. Received: out={str(self.path.parent)!r}"
            )

    def get(self, key: str) -> dict | None:
        """Returns the record of a run, or `None` where it is not finished."""
        with self._explained():
            row = self.connection.execute("SELECT record FROM runs WHERE key = ?", (key,)).fetchone()
        return row and json.loads(row[0])

    def put(self, key: str, record: dict) -> None:
        """Writes the record of a finished run; when this returns, it is on the disk."""
        with self._explained():
            self.connection.execute("INSERT OR REPLACE INTO runs VALUES (?, ?)", (key, json.dumps(record)))

    def close(self):
        self.connection.close()

    @contextlib.contextmanager
    def _explained(self):
        try:
            yield
        except sqlite3.OperationalError as error:
            advice = {
                "SQLITE_FULL": "make room, and give the same command again: it goes on after the last finished run",
                "SQLITE_BUSY": "another process compares into this folder; wait for it, or give another folder",
            }
            name = getattr(error, "sqlite_errorname", "")
            raise OSError(f"{self.path}: {error}. {advice.get(name, 'It must be a file to write to')}.") from error
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{self.path} is no journal of a comparison: {error}. Delete it, or move it.") from error


def _short(value):
    text = one_line(json.dumps(value))
    return text if len(text) < 60 else f"{text[:56]}..."


def write_whole(path: pathlib.Path, write: Callable[[pathlib.Path], object]) -> None:
    """Calls `write` with a path, and moves the file to `path` when it is whole and on the disk."""
    # A fixed name: what a killed process leaves of it, the next one replaces.
    part = path.with_name(f".{path.name}")
    try:
        write(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def checked_folder(out, names):
    """Returns the path `out`, made a folder, after a look at whether the files can be written there."""
    try:
        folder = pathlib.Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        for name in names:
            if (folder / name).is_dir():
                raise IsADirectoryError(f"{name} in it is a folder")
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(
            f"`out` must be a folder to write to, a path where there is nothing yet, or None: {one_line(error)}. "
            f"Received: out={out!r}"
        ) from error
    return folder
