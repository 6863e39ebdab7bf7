"""The figures that several scripts draw."""

from matplotlib.ticker import LogFormatter


def dots(axes, measured, rows, measure):
    """Draws a dot for each seed and a line for the mean, of each row that was measured, one below the other."""
    rows = [row for row in rows if measure in measured.get(row, {})]
    for i, row in enumerate(rows):
        values = measured[row][measure]
        axes.plot(values, [i] * len(values), "o", alpha=0.4, color=f"C{i}")
        axes.plot(values.mean(), i, "|", markersize=20, color=f"C{i}")
    axes.set_yticks(range(len(rows)), [row.replace(", ", ",\n") for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(measure)


def curves(axes, measured, rows, measure, label):
    """Draws the means over seeds of a list of numbers, one for each epoch, with a logarithmic axis named `label`."""
    for i, row in enumerate(row for row in rows if measure in measured.get(row, {})):
        curve = measured[row][measure].mean(0)
        axes.plot(range(1, len(curve) + 1), curve, color=f"C{i}", label=row)
    axes.set(xlabel="epoch", ylabel=label, yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    # Over a decade and a half, the numbers between its powers would lie on each other.
    axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
    axes.grid(alpha=0.3, which="both")
    axes.legend()
