"""What a comparison came to: in a paragraph, and on one page of HTML that needs no network."""

import importlib.resources
import io

from keras_dropouts.comparison.candidate import titled
from keras_dropouts.comparison.figure import calibration_of, curves_of, ranked, unit_of

SURE = 0.05


def advice(results):
    """Returns what to do, in a paragraph."""
    test, chosen = results["test"], titled(**{"name": results["chosen"]["layer"], "rate": results["chosen"]["rate"]})
    tried = len(results["results"]) - 1
    many = f"the {tried} that were tried" if tried > 1 else "the one that was tried"
    if test["chosen"] is None:
        return (
            f"No difference found: on the validation folds none of {many} was better than no dropout on average. "
            f"Without dropout, {_valued(results, test['none'])} on the test data. Leave dropout out, or try other "
            f"layers and rates."
        )
    gain = test["gain"]
    if gain is None:
        return f"{chosen}, the best of {many} on the validation folds, diverged in the test. Leave dropout out."
    times = {(entry["layer"], entry["rate"]): entry["step_time"] for entry in results["results"]}
    time = times[results["chosen"]["layer"], results["chosen"]["rate"]]
    found = f"{_valued(results, test['chosen'])}, {_difference(results, gain['mean'])} than without dropout"
    if gain["low"] is None:
        return (
            f"No difference can be told from luck: with {chosen}, the best of {many} on the validation folds, {found} "
            f"on the test data, but {results['repeats']} seed(s) do not say how much of it is luck. Test with more: "
            f"repeats=5."
        )
    interval = " to ".join(_number(results, gain[end], True) for end in ("low", "high"))
    measured = (
        f"on the test data {found} (95 % interval of the gain: {interval}; p = {gain['p']:.2g}; over "
        f"{results['repeats']} seeds and {results['test_samples']} samples)"
    )
    if gain["low"] > 0:
        verdict = f"Use {chosen}: {measured}."
    elif gain["high"] < 0:
        verdict = f"Leave dropout out: with {chosen}, the best of {many} on the validation folds, {measured}."
    else:
        return (
            f"No difference found: with {chosen}, the best of {many} on the validation folds, {measured}, which luck "
            f"alone explains. Without dropout the model is simpler; more seeds (repeats) or test samples would show a "
            f"smaller difference."
        )
    return (
        f"{verdict} It was the best of {many} on the validation folds. A training step takes {time:.2f} times as long."
    )


def _valued(results, entry):
    name = {"accuracy": "the accuracy", "nll": "the negative log-likelihood", "mae": "the mean absolute error"}.get(
        results["metric"], "the root of the mean squared error"
    )
    return f"{name} is {_number(results, entry[results['metric']]['mean'])}"


def _difference(results, gain):
    better = ("higher" if gain >= 0 else "lower") if results["metric"] == "accuracy" else "lower" * (gain >= 0)
    return f"{_number(results, abs(gain), points=True)} {better or 'higher'}"


def _number(results, value, points=False):
    if results["metric"] != "accuracy":
        return f"{value:.4g}"
    return f"{100 * value:.2f} points" if points else f"{100 * value:.2f} %"


def rows(results):
    """Returns the table: headings, and for each candidate the cells and whether it is the chosen one."""
    name, unit = unit_of(results)
    calibrated = results["results"][0]["ece"] is not None
    headings = ["layer", "rate", name, "gain", "95 % interval", "p", "gap", *["ECE %"] * calibrated, "step", "runs"]
    table = []
    for entry in ranked(results):
        gain = entry["gain"] or {}
        digits = 1 if unit == 100 else 4
        cells = [
            entry["layer"],
            "" if entry["rate"] is None else f"{entry['rate']:g}",
            _spread(entry[results["metric"]], unit, digits),
            f"{unit * gain['mean']:+.{digits}f}" if gain else "" if entry is results["results"][0] else "diverged",
            f"{unit * gain['low']:+.{digits}f} to {unit * gain['high']:+.{digits}f}"
            if gain.get("low") is not None
            else "",
            f"{gain['p']:.2g}" if gain.get("p") is not None else "",
            _spread(entry["gap"], unit, digits),
            *[_spread(entry["ece"], 100, 1)] * calibrated,
            "" if entry["step_time"] is None else f"{entry['step_time']:.2f}x",
            str(len(entry["runs"])),
        ]
        chosen = {"layer": entry["layer"], "rate": entry["rate"]} == results["chosen"]
        table.append((cells, chosen))
    return headings, table


def _spread(value, unit, digits):
    if value is None:
        return ""
    spread = "" if value["std"] is None else f" \u00b1 {unit * value['std']:.{digits}f}"
    return f"{unit * value['mean']:.{digits}f}{spread}"


def report(results):
    """Returns the page."""
    import jinja2
    from markupsafe import Markup

    def drawn(figure):
        if figure is None:
            return None
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
        # Without what belongs to a file of its own.
        return Markup(file.getvalue()[file.getvalue().index("<svg") :])

    template = importlib.resources.files(__package__).joinpath("report.html").read_text(encoding="utf-8")
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(template)
    headings, table = rows(results)
    tests = []
    for entry in (results["test"]["none"], results["test"]["chosen"]):
        if entry:
            name, unit = unit_of(results)
            value = _spread(entry[results["metric"]], unit, 2 if unit == 100 else 4)
            tests.append((titled(entry["layer"], entry["rate"]), name, value, _spread(entry["ece"], 100, 1)))
    return page.render(
        results=results,
        headings=headings,
        table=table,
        tests=tests,
        curves=drawn(curves_of(results)),
        calibration=drawn(calibration_of(results)),
    )
