"""What a comparison shows while it runs, and how it is interrupted."""

import contextlib
import signal
import threading

import keras


class Progress:
    """A bar of rich's that counts epochs, or nothing."""

    def __init__(self, epochs, verbose):
        self.bar = None
        if verbose:
            from rich import console, progress

            self.bar = progress.Progress(
                progress.BarColumn(),
                progress.TaskProgressColumn(),
                progress.TimeElapsedColumn(),
                progress.TimeRemainingColumn(),
                progress.TextColumn("{task.description}", markup=False),
                console=console.Console(stderr=True),
            )
            self.task = self.bar.add_task("", total=epochs)

    def __enter__(self):
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_):
        if self.bar:
            self.bar.stop()

    def run(self, description):
        if self.bar:
            self.bar.update(self.task, description=description)

    def callback(self):
        return keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: self.bar and self.bar.advance(self.task))


class Interrupts:
    """Ctrl-C, which waits but where it is let through: a run is kept as a whole, and a second one stops no writing."""

    def __enter__(self):
        self.came = self.open = False
        self.handler = signal.getsignal(signal.SIGINT)
        # In other threads there is no Ctrl-C, and no handler can be set.
        self.held = callable(self.handler) and threading.current_thread() is threading.main_thread()
        if self.held:
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_):
        if self.held:
            signal.signal(signal.SIGINT, self.handler)

    def _handle(self, *args):
        self.came = True
        if self.open:
            # Here and not on the way out, where the next one may come first.
            self.open = False
            self.handler(*args)

    @contextlib.contextmanager
    def let_through(self):
        self.open = True
        try:
            if self.came:
                raise KeyboardInterrupt
            yield
        finally:
            self.open = False
