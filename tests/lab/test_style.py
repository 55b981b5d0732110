"""Bins of a curve against a plain loop, and the numbers along an axis."""

import numpy as np
import pytest
from drawing import heavy_tailed

from jaxscape.lab import style
from jaxscape.lab.style import log_bins


def slow_bins(k, values, sem, num):
    """The definition, sample by sample."""
    width = np.log(k[-1] / k[0]) / num
    groups = {}
    for position, one in enumerate(k):
        index = min(int(np.floor(np.log(one / k[0]) / width + 1e-12)), num - 1)
        groups.setdefault(index, []).append(position)
    rows = []
    for _, where in sorted(groups.items()):
        v = [float(values[i]) for i in where]
        mean = sum(v) / len(v)
        scatter = sum((x - mean) ** 2 for x in v) / (len(v) - 1) / len(v) if len(v) > 1 else 0.0
        mc = sum(float(sem[i]) for i in where) / len(v)
        middle = np.exp(sum(np.log(float(k[i])) for i in where) / len(v))
        rows.append((middle, mean, np.sqrt(scatter + mc**2), min(v), max(v)))
    return np.array(rows).T


@pytest.mark.parametrize(("n", "num"), [(3000, 60), (50, 60), (777, 7), (3, 60), (2000, 500)])
def test_bins_equal_a_plain_loop(n, num):
    k, curves, sem = heavy_tailed(n)
    for values in (curves[0], curves[0].astype(np.float32)):
        found = log_bins(k, values, sem[0], num=num)
        np.testing.assert_allclose(np.stack(found), slow_bins(k, values, sem[0], num), rtol=1e-6)


def test_bins_lose_no_sample_and_no_extreme():
    k, curves, _ = heavy_tailed()
    one_each = log_bins(k, np.ones(len(k)))
    np.testing.assert_array_equal(one_each.mean, 1)
    np.testing.assert_array_equal(one_each.error, 0)
    for num in (60, 500):
        found = log_bins(k, curves[0], num=num)
        assert found.high.max() == curves[0].max()
        assert found.low.min() == curves[0].min()


def test_bin_error_is_the_spread_of_bin_means():
    """Over many draws the means scatter as the error says, without Monte-Carlo error."""
    draw = np.random.default_rng(1)
    k = np.arange(1, 2000)
    bins = [log_bins(k, draw.exponential(size=len(k)), num=8) for _ in range(400)]
    spread = np.std([b.mean for b in bins], axis=0)
    expected = np.sqrt(np.mean([b.error**2 for b in bins], axis=0))
    np.testing.assert_allclose(spread[2:], expected[2:], rtol=0.15)


@pytest.mark.parametrize("values", [[0.0, 0.0], [-1.0, 0.0], [np.nan, 0.5]])
def test_axes_are_logarithmic_where_something_lies_above_0(values):
    figure, panels = style.canvas("title", "k", "y", ["one", "other"])
    panels[0].plot([1, 10], values, label="a curve")
    assert style.finish(figure, "note") is figure
    (key,) = figure.legends
    assert key.get_title().get_text() == "note"
    assert [text.get_text() for text in key.get_texts()] == ["a curve"]
    for axes in panels:
        assert axes.get_yscale() == axes.get_xscale() == ("log" if 0.5 in values else "linear")
        said = [text.get_text() for text in axes.texts]
        assert said == ([] if 0.5 in values else ["no value above 0"])


@pytest.mark.parametrize(
    ("ends", "labels"),
    [
        ((250, 6000), ["500", "1,000", "2,000", "5,000"]),
        ((2, 8), ["2", "4", "6", "8"]),
        ((1, 6000), ["10⁰", "10¹", "10²", "10³"]),
        ((2e-13, 3e-12), ["2·10⁻¹³", "5·10⁻¹³", "10⁻¹²", "2·10⁻¹²"]),
    ],
)
def test_numbers_along_a_logarithmic_axis_stay_apart(ends, labels):
    figure, (axes,) = style.canvas("title", "k", "y")
    axes.plot(ends, ends)
    axes.set(xscale="log", yscale="log")
    for scale in (100, 1):  # the first range is not for ever
        axes.set_xlim(ends[0] / scale, ends[1])
        style.thin(figure)
    axes.set_xlim(ends[0] / 1.05, ends[1] * 1.05)
    figure.canvas.draw()
    low, high = axes.get_xlim()
    found = [
        text.get_text()
        for minor in (False, True)
        for text in axes.get_xticklabels(minor)
        if text.get_text() and low <= text.get_position()[0] <= high
    ]
    assert found == labels


@pytest.mark.parametrize(
    ("value", "text"),
    [(2.5, "2.5·10⁰"), (1449.0, "1.449·10³"), (999.9999999, "10³"), (0.0, "0"), (np.inf, "inf")],
)
def test_a_power_of_ten_keeps_its_digits(value, text):
    assert style.power(value) == text


def test_an_axis_of_another_base_keeps_its_numbers():
    figure, (axes,) = style.canvas("title", "k", "y")
    axes.plot([1, 1000], [1, 1000])
    axes.set_xscale("log", base=2)
    formatter = axes.xaxis.get_major_formatter()
    style.thin(figure)
    assert axes.xaxis.get_major_formatter() is formatter
