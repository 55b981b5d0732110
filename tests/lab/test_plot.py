import warnings

import matplotlib
import numpy as np
import pytest

from jaxscape.lab import plot, style
from jaxscape.lab.style import log_bins

LABELS = ["σ = 0.01", "σ = 0.1"]


def heavy_tailed(n=3000, s=2):
    """Values like those of a sweep: 1/k² times something that spans decades."""
    draw = np.random.default_rng(0)
    k = np.arange(1, n)
    curves = 10 ** draw.normal(-2, 1.5, (s, n - 1)) / (k * (k + 1))
    return k, curves, 0.1 * curves


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


def named(axes):
    return {line.get_label(): line for line in axes.lines}


def shown_text(figure):
    (key,) = figure.legends
    return [key.get_title().get_text(), *(text.get_text() for text in key.get_texts())]


def test_delta_draws_bin_means_bands_and_extremes():
    k, curves, sem = heavy_tailed()
    figure = plot.delta(k, curves, sem, LABELS, dataset="MNIST, 3,000 samples")
    (axes,) = figure.axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    for row, label in enumerate(LABELS):
        expected = log_bins(k, curves[row], sem[row])
        np.testing.assert_array_equal(named(axes)[label].get_xydata().T, expected[:2])
        corners = axes.collections[row].get_paths()[0].vertices[:, 1]
        factor = np.exp(expected.error / expected.mean)
        np.testing.assert_allclose(corners.max(), (expected.mean * factor).max())
        np.testing.assert_allclose(corners.min(), (expected.mean / factor).min())
    dots = np.concatenate([line.get_ydata() for line in axes.lines if line.get_marker() == "."])
    assert dots.max() == curves.max()
    assert dots.min() == curves.min()
    assert "MNIST, 3,000 samples" in figure.get_suptitle()
    assert "(samples)" in axes.get_xlabel()
    assert "nats²" in axes.get_ylabel()
    title, *entries = shown_text(figure)
    assert "mean per logarithmic bin" in title
    assert "standard error" in title
    assert entries == LABELS
    colours = {named(axes)[label].get_color() for label in LABELS}
    markers = {named(axes)[label].get_marker() for label in LABELS}
    assert len(colours) == len(markers) == 2


def test_delta_k2_scales_and_draws_the_order_law():
    k, curves, sem = heavy_tailed()
    variance = np.array([0.5, 2.0])
    figure = plot.delta_k2(k, curves, sem, LABELS, dataset="MNIST", loss_variance=variance)
    (axes,) = figure.axes
    expected = log_bins(k, curves[1] * k.astype(float) ** 2)
    np.testing.assert_allclose(named(axes)[LABELS[1]].get_ydata(), expected.mean)
    laws = [line for line in axes.lines if line.get_linestyle() == "--" and len(line.get_xdata())]
    for law, value in zip(laws, variance, strict=True):
        np.testing.assert_allclose(law.get_ydata(), value * k**2.0 / (k * (k + 1.0)))
    assert any("order law" in entry for entry in shown_text(figure))
    bare = plot.delta_k2(k, curves, sem, LABELS, dataset="MNIST")
    assert not any("order law" in entry for entry in shown_text(bare))


@pytest.mark.parametrize("panels", [1, 2, 3, 4, 5, 7])
def test_shape_part_has_a_labelled_panel_per_sigma(panels):
    k, total, _ = heavy_tailed(500, panels)
    shape = 0.3 * total
    labels = [f"σ = {row}" for row in range(panels)]
    figure = plot.centered(k, total, shape, labels, dataset="MNIST")
    assert [axes.get_title() for axes in figure.axes] == labels
    labelled = [bool(axes.get_xlabel()) for axes in figure.axes]
    columns = {1: 1, 2: 2, 3: 3, 4: 2, 5: 3, 7: 4}[panels]
    assert labelled == [False] * (panels - columns) + [True] * columns  # the lowest of each column
    for row, axes in enumerate(figure.axes):
        for line, values in zip(axes.lines, (total[row], shape[row]), strict=True):
            np.testing.assert_array_equal(line.get_ydata(), log_bins(k, values).mean)
    assert len(shown_text(figure)) == 3


def test_eigenvalues_keep_sign_order_and_residual():
    values, residuals = np.array([5.0, -3.0, 2.0]), np.array([0.1, 0.2, 0.3])
    figure = plot.eigenvalues(values, residuals, dataset="MNIST")
    (axes,) = figure.axes
    seen = {}
    for container in axes.containers:
        line, _, (bars,) = container
        for (index, value), segment in zip(line.get_xydata(), bars.get_segments(), strict=True):
            seen[index] = (value, np.ptp(segment[:, 1]) / 2, line.get_marker())
    np.testing.assert_allclose([seen[i][0] for i in (1, 2, 3)], values)
    np.testing.assert_allclose([seen[i][1] for i in (1, 2, 3)], residuals)
    assert seen[1][2] == seen[3][2] != seen[2][2]
    assert "at most 0.3" in shown_text(figure)[0]


def test_fallback_data_is_marked_on_every_figure():
    k, curves, sem = heavy_tailed(100)
    for fallback in (False, True):
        about = {"dataset": "glyphs", "fallback": fallback}
        for figure in (
            plot.delta(k, curves, sem, LABELS, **about),
            plot.delta_k2(k, curves, sem, LABELS, **about),
            plot.centered(k, curves, curves, LABELS, **about),
            plot.eigenvalues(np.ones(3), np.zeros(3), **about),
        ):
            assert "glyphs" in figure.get_suptitle()
            assert ("FALLBACK" in figure.get_suptitle()) is fallback


def test_zeros_and_a_single_k_are_drawn_without_warning(tmp_path):
    k, curves, sem = heavy_tailed(40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plot.centered(k, curves, 0 * curves, LABELS, dataset="MNIST")
        plot.save(figure, tmp_path, "zeros")
        figure = plot.delta(k[:1], curves[:, :1], sem[:, :1], LABELS, dataset="MNIST")
        plot.save(figure, tmp_path, "single")
    assert len(figure.axes[0].lines[-1].get_xdata()) == 1


def test_save_writes_both_formats_reproducibly_and_leaves_the_style_alone(tmp_path):
    k, curves, sem = heavy_tailed(200)
    before = dict(matplotlib.rcParams)
    for folder in ("one", "two"):
        plot.save(plot.delta(k, curves, sem, LABELS, dataset="MNIST"), tmp_path / folder, "delta")
    assert dict(matplotlib.rcParams) == before
    png, pdf = ((tmp_path / "one" / f"delta.{kind}").read_bytes() for kind in ("png", "pdf"))
    assert png.startswith(b"\x89PNG")
    assert int.from_bytes(png[16:20], "big") == 1400  # 7 inches at 200 dots
    assert pdf.startswith(b"%PDF")
    assert (tmp_path / "two" / "delta.png").read_bytes() == png
    assert (tmp_path / "two" / "delta.pdf").read_bytes() == pdf


@pytest.mark.parametrize(("ends", "labels"), [((250, 6000), ["5", "2", "5"]), ((1, 6000), [])])
def test_numbers_along_a_logarithmic_axis_stay_apart(ends, labels):
    figure, (axes,) = style.canvas("title", "k", "y", fallback=False)
    axes.plot(ends, ends)
    axes.set(xscale="log", yscale="log")
    style.thin(figure)
    figure.canvas.draw()
    low, high = axes.get_xlim()
    found = [
        text.get_text()
        for text in axes.get_xticklabels(minor=True)
        if text.get_text() and low <= text.get_position()[0] <= high
    ]
    assert [text.strip("$")[0] for text in found] == labels
