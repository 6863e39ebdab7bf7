"""What a comparison shows while it runs."""


class Progress:
    """A bar of rich's that counts runs, with the time left, or nothing."""

    def __init__(self, runs, verbose):
        self.bar = None
        if verbose:
            from rich import console, progress

            self.bar = progress.Progress(
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeElapsedColumn(),
                progress.TimeRemainingColumn(),
                progress.TextColumn("{task.description}", markup=False),
                console=console.Console(stderr=True),
            )
            self.task = self.bar.add_task("", total=runs)

    def __enter__(self):
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_):
        if self.bar:
            self.bar.stop()

    def done(self, runs, description):
        if self.bar:
            self.bar.update(self.task, advance=runs, description=description)
