"""Figures: what is drawn is what was given."""

import warnings

import matplotlib
import meshio
import numpy as np
import pytest
from drawing import heavy_tailed

from jaxscape.lab import plot, style
from jaxscape.lab.style import log_bins

LABELS = ["σ = 0.01", "σ = 0.1"]


def named(axes):
    return {line.get_label(): line for line in axes.lines}


def shown_text(figure):
    (key,) = figure.legends
    return [key.get_title().get_text(), *(text.get_text() for text in key.get_texts())]


def test_delta_draws_bin_means_bands_and_extremes():
    k, curves, sem = heavy_tailed()
    figure = plot.delta(k, curves, sem, LABELS)
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
    floor = 1e-4 * min(log_bins(k, row, num=500).mean.min() for row in curves)
    assert dots.min() >= floor  # what lies far below all is not drawn
    assert dots.min() <= 100 * max(floor, curves.min())
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
    figure = plot.delta_k2(k, curves, sem, LABELS, loss_variance=variance)
    (axes,) = figure.axes
    expected = log_bins(k, curves[1] * k.astype(float) ** 2)
    np.testing.assert_allclose(named(axes)[LABELS[1]].get_ydata(), expected.mean)
    laws = [line for line in axes.lines if line.get_linestyle() == "--" and len(line.get_xdata())]
    for law, value in zip(laws, variance, strict=True):
        np.testing.assert_allclose(law.get_ydata(), value * k**2.0 / (k * (k + 1.0)))
    assert any("order law" in entry for entry in shown_text(figure))
    bare = plot.delta_k2(k, curves, sem, LABELS)
    assert not any("order law" in entry for entry in shown_text(bare))


@pytest.mark.parametrize("panels", [1, 2, 3, 4, 5, 7])
def test_centered_has_a_labelled_panel_per_sigma(panels):
    k, total, _ = heavy_tailed(500, panels)
    part = 0.3 * total
    labels = [f"σ = {row}" for row in range(panels)]
    figure = plot.centered(k, total, part, labels)
    assert [axes.get_title() for axes in figure.axes] == labels
    labelled = [bool(axes.get_xlabel()) for axes in figure.axes]
    columns = {1: 1, 2: 2, 3: 3, 4: 2, 5: 3, 7: 4}[panels]
    assert labelled == [False] * (panels - columns) + [True] * columns  # the lowest of each column
    for row, axes in enumerate(figure.axes):
        for line, values in zip(axes.lines, (total[row], part[row]), strict=True):
            np.testing.assert_array_equal(line.get_ydata(), log_bins(k, values).mean)
    assert len(shown_text(figure)) == 3


def test_eigenvalues_keep_sign_order_and_residual():
    values, residuals = np.array([5.0, -3.0, 2.0]), np.array([0.1, 0.2, 0.3])
    figure = plot.eigenvalues(values, residuals)
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
    legends = [figure.legends[0], plot.eigenvalues(-abs(values), residuals).legends[0]]
    said = [[text.get_text() for text in key.get_texts()] for key in legends]
    assert said == [["not negative", "negative"], []]  # of one sign the axis tells


def test_the_law_is_drawn_beside_monte_carlo_in_each_panel():
    k, measured, _ = heavy_tailed(500)
    theory = {"full law": 2 * measured, "curvature part": 0.1 * measured}
    figure = plot.law(k, measured, theory, LABELS)
    assert [axes.get_title() for axes in figure.axes] == LABELS
    for row, axes in enumerate(figure.axes):
        for name, factor in {"Monte-Carlo": 1.0, "full law": 2.0, "curvature part": 0.1}.items():
            expected = log_bins(k, factor * measured[row]).mean
            np.testing.assert_allclose(named(axes)[name].get_ydata(), expected)


def test_parts_are_stacked_as_shares_of_their_sum():
    k = np.arange(1, 500)
    shares = {"offset": 0.5, "mixed": -0.1, "gradient": 0.4, "curvature": 0.2}
    parts = {name: np.full((1, 499), 7 * share) for name, share in shares.items()}
    (axes,) = plot.law_parts(k, parts, ["σ = 1"]).axes
    edges = {}
    for area in axes.collections[::2] + axes.collections[1::2]:
        heights = area.get_paths()[0].vertices[:, 1]
        if np.ptp(heights) > 1e-9:
            edges[tuple(area.get_facecolor()[0])] = (heights.min(), heights.max())
    expected = [(0, 0.5), (0.5, 0.9), (0.9, 1.1), (-0.1, 0)]
    np.testing.assert_allclose(list(edges.values()), expected, atol=1e-9)


def test_sizes_leave_out_what_is_not_reached():
    tolerances = np.array([1e-2, 1e-3, 1e-4])
    measured = np.array([[3, 96, -1]])
    predicted = np.array([5.0, 50.0, np.nan]) * np.array([0.9, 1, 1.1])[None, :, None]
    figure = plot.sufficient_sizes(tolerances, measured, predicted, 100, ["σ"])
    (axes,) = figure.axes
    np.testing.assert_array_equal(named(axes)["σ"].get_xydata(), [[1e-2, 3]])
    (late,) = (line for line in axes.lines if line.get_markerfacecolor() == "w")
    np.testing.assert_array_equal(late.get_xydata(), [[1e-3, 96]])  # near the end: hollow
    assert any(np.array_equal(line.get_ydata(), [100, 100]) for line in axes.lines)
    assert "100 samples" in shown_text(figure)[0]


def test_agreement_draws_each_part_as_its_share_of_the_ratio():
    sigma, ratio = np.array([0.01, 0.1, 1.0]), np.array([1.0, 0.8, 0.3])
    parts = {"offset": np.array([0.5, 0.25, 0.1]), "mixed": np.array([-0.1, 0.0, 0.2])}
    figure = plot.law_agreement(sigma, ratio, 0.1 * ratio, 0.9 * ratio, parts)
    lines = named(figure.axes[0])
    np.testing.assert_allclose(lines["offset part"].get_ydata(), [0.5, 0.2, 0.03])
    np.testing.assert_allclose(lines["mixed part"].get_xydata(), [[1.0, 0.06]])
    np.testing.assert_allclose(lines["full law, median"].get_ydata(), 0.9 * ratio)


STEPS = np.linspace(-1, 1, 5)
FIRST, SECOND = np.meshgrid(STEPS, STEPS, indexing="ij")
SHEETS = {"bowl": 1 + FIRST**2 + 10 * SECOND**2, "saddle": FIRST - SECOND}


def test_contours_place_values_at_their_coordinates():
    path = np.array([[0.8, 0.1], [0.4, 0.0], [0.0, 0.0]])
    figure = plot.contours(STEPS, SHEETS, title="Loss", quantity="loss (nats)", path=path)
    panels = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
    for name, sheet in SHEETS.items():
        mesh = panels[name].collections[0]
        at = mesh.get_coordinates()
        values = {
            tuple(xy): z for xy, z in zip(at.reshape(-1, 2), mesh.get_array().ravel(), strict=True)
        }
        for i, x in enumerate(STEPS):
            for j, y in enumerate(STEPS):
                assert values[x, y] == sheet[i, j]
        drawn = named(panels[name])["training, an epoch a dot"]
        np.testing.assert_array_equal(drawn.get_xydata(), path)
    logarithmic = [panel.collections[0].norm.__class__.__name__ for panel in panels.values()]
    assert logarithmic == ["LogNorm", "Normalize"]


def test_a_grid_need_not_be_square_and_several_runs_lie_on_it():
    first, second = np.linspace(-1, 1, 5), np.linspace(0, 3, 4)
    sheet = first[:, None] + 10.0 * second
    runs = {"one": np.array([[0.5, 1.0], [0.0, 0.0]]), "two": np.array([[-1.0, 3.0], [0.0, 0.0]])}
    common = {"title": "Loss", "quantity": "loss", "path": runs}
    flat = plot.contours([first, second], {"plane": sheet}, **common).axes[0]
    mesh = flat.collections[0]
    corners = mesh.get_coordinates().reshape(-1, 2)
    np.testing.assert_allclose(mesh.get_array().ravel(), corners @ [1, 10])
    raised = plot.reliefs([first, second], {"plane": sheet}, is_log=False, **common).axes[0]
    for name, points in runs.items():
        np.testing.assert_array_equal(named(flat)[name].get_xydata(), points)
        heights = named(raised)[name].get_data_3d()[2]
        np.testing.assert_allclose(heights, points @ [1, 10])
    assert named(flat)["one"].get_color() != named(flat)["two"].get_color()


def test_a_vtk_file_holds_each_value_at_its_place(tmp_path):
    first, second = np.array([-1.0, 0.0, 2.0]), np.array([0.5, 4.0])
    sheets = {"L 10": first[:, None] + 10 * second, "L 20": first[:, None] * second}
    sheets["L 20"][1, 1] = np.nan
    plot.write_vtk(tmp_path / "loss.vtk", [first, second], sheets)
    found = meshio.read(tmp_path / "loss.vtk")
    for name, sheet in sheets.items():
        for (x, y, _), z in zip(
            found.points, found.point_data[name.replace(" ", "_")], strict=True
        ):
            want = sheet[np.flatnonzero(first == x)[0], np.flatnonzero(second == y)[0]]
            np.testing.assert_equal(float(np.ravel(z)[0]), want)


def test_reliefs_mark_the_height_of_the_trained_point():
    figure = plot.reliefs(STEPS, SHEETS, title="Loss", quantity="loss")
    bowl, saddle = figure.axes
    assert (bowl.get_zlabel(), saddle.get_zlabel()) == (r"$\log_{10}$ loss", "loss")
    for axes, height in ((bowl, np.log10(1.0)), (saddle, 0.0)):
        np.testing.assert_array_equal(axes.lines[0].get_data_3d(), [[0], [0], [height]])
    np.testing.assert_allclose(bowl.get_zlim(), np.log10([1, 12]), atol=0.1)


def test_the_title_names_the_data_and_marks_those_that_stand_in_for_mnist():
    for title, named in (("Loss", "Loss: glyphs"), ("Enough?", "Enough? glyphs")):
        figure = plot.contours(STEPS, SHEETS, title=title, quantity="loss")
        assert plot.name_data(figure, "glyphs") is figure
        assert figure.get_suptitle() == named
        assert figure.texts[0].get_color() == "black"
    figure = plot.contours(STEPS, SHEETS, title="Loss", quantity="loss")
    plot.name_data(figure, "glyphs", fallback=True)
    assert figure.get_suptitle().startswith("Loss: glyphs\nFALLBACK DATA")
    assert figure.texts[0].get_color() != "black"


@pytest.mark.parametrize("ends", [(6.2, 19.0), (0.95, 1.05), (3e-4, 8e-4), (1.0, 1e4)])
def test_every_logarithmic_axis_has_two_numbers(ends, tmp_path):
    figure, (axes,) = style.canvas("Title", "x", "y")
    axes.plot(ends, ends)
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    plot.save(figure, tmp_path, "narrow")
    for axis in (axes.xaxis, axes.yaxis):
        ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        texts = [t.label1.get_text() for t in ticks if ends[0] <= t.get_loc() <= ends[1]]
        assert len([text for text in texts if text]) >= 2, texts


def test_panels_of_one_quantity_share_their_colours():
    sheets = {name: factor * SHEETS["bowl"] for name, factor in (("a", 1), ("b", 2), ("c", 1000))}
    names = ["loss", "loss", "step"]
    figure = plot.contours(STEPS, sheets, title="Loss", quantity=names)
    ranges = [axes.collections[0].get_clim() for axes in figure.axes[:3]]
    assert ranges[0] == ranges[1] != ranges[2]
    labels = [axes.get_ylabel() for axes in figure.axes[3:]]
    assert sorted(labels) == sorted(names)


def test_reliefs_are_linear_where_asked_for():
    for is_log in (True, False):
        figure = plot.reliefs(STEPS, SHEETS, title="Loss", quantity="loss", is_log=is_log)
        assert ("log" in figure.axes[0].get_zlabel()) == is_log


def test_zeros_and_a_single_k_are_drawn_without_warning(tmp_path):
    k, curves, sem = heavy_tailed(40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plot.centered(k, curves, 0 * curves, LABELS)
        plot.save(figure, tmp_path, "zeros")
        figure = plot.delta(k[:1], curves[:, :1], sem[:, :1], LABELS)
        plot.save(figure, tmp_path, "single")
    assert len(figure.axes[0].lines[-1].get_xdata()) == 1


def test_save_writes_both_formats_reproducibly_and_leaves_the_style_alone(tmp_path):
    k, curves, sem = heavy_tailed(200)
    before = dict(matplotlib.rcParams)
    for folder in ("one", "two"):
        plot.save(plot.delta(k, curves, sem, LABELS), tmp_path / folder, "delta")
    assert dict(matplotlib.rcParams) == before
    png, pdf = ((tmp_path / "one" / f"delta.{kind}").read_bytes() for kind in ("png", "pdf"))
    assert png.startswith(b"\x89PNG")
    assert int.from_bytes(png[16:20], "big") == 1400  # 7 inches at 200 dots
    assert pdf.startswith(b"%PDF")
    assert (tmp_path / "two" / "delta.png").read_bytes() == png
    assert (tmp_path / "two" / "delta.pdf").read_bytes() == pdf
