"""Figures of Δ_k, its law, sufficient sizes, spectra and loss surfaces, from arrays.

``unit`` is the unit of what is drawn, that of a squared loss where it is Δ_k. ``name_data`` adds to
the title what the data are.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from scipy.interpolate import RegularGridInterpolator

from jaxscape.lab import style
from jaxscape.lab.style import PREFIX, STYLE, Keywords, Ks, canvas, colour, curve, legend
from jaxscape.trees import short
from jaxscape.types import InputError

AXES = (r"$\theta_1$", r"$\theta_2$")
LATE = 0.95
"""Share of the samples after which too few follow a K to tell whether it lasts."""

Curves = Float[np.ndarray, "s K"]
"""A value for each k, and a row for each label."""
Row = Float[np.ndarray, "s"]


def delta(
    k: Ks, curves: Curves, sem: Curves, labels: Sequence[str], *, unit: str = "nats²"
) -> Figure:
    """Δ_k with its standard error ``sem`` against k, a curve per label, both axes logarithmic."""
    ylabel = rf"$\Delta_k = \mathrm{{E}}_w\,[\delta_k(w)^2]$   ({unit})"
    return _against_k("Change of the loss surface per sample", ylabel, k, curves, sem, labels)


def delta_k2(
    k: Ks, curves: Curves, sem: Curves, labels: Sequence[str], *,
    loss_variance: Row | None = None, unit: str = "nats²",
) -> Figure:  # fmt: skip
    """Δ_k·k² against k; with ``loss_variance`` also the order law E_qS²·k/(k+1), dashed."""
    square = np.asarray(k, np.float64) ** 2
    laws: Any = [] if loss_variance is None else np.outer(loss_variance, k / (k + 1))
    title, ylabel = "Scaled change of the loss surface", rf"$\Delta_k \cdot k^2$   ({unit})"
    return _against_k(title, ylabel, k, curves * square, sem * square, labels, laws)


def _against_k(
    title: str, ylabel: str, k: Ks, curves: Any, sem: Any, labels: Sequence[str], laws: Any = ()
) -> Figure:
    """A curve per label, with its extremes; the order law of each, dashed."""
    figure, (axes,) = canvas(title, PREFIX, ylabel)
    for row, label in enumerate(labels):
        style.draw_extremes(axes, row, k, curves[row])
        style.draw_mean(axes, row, k, curves[row], sem[row], label)
    if len(laws):
        axes.plot([], [], "--", color="0.3", label=r"order law $\mathrm{E}_w S^2\, k/(k+1)$")
    for row, law in enumerate(laws):
        axes.plot(k, law, "--", color=colour(row), lw=1.3)
    later = curves[:, np.asarray(k) >= 10]  # the first few may lie many decades below the rest
    if (later > 0).any():
        axes.set_ylim(bottom=0.3 * later[later > 0].min())
    return style.finish(figure, f"{style.BINNED}; dots: extremes of narrow bins")


def centered(
    k: Ks, total: Curves, part: Curves, labels: Sequence[str], *, unit: str = "nats²"
) -> Figure:
    """Δ_k beside centered Δ̃_k, which ignores a shift of the whole surface, a panel per label."""
    title = "Change of the loss surface with and without shifts"
    curves = {r"$\Delta_k$": total, r"$\tilde\Delta_k$, centered: no shifts": part}
    return _side_by_side(title, rf"$\Delta_k,\ \tilde\Delta_k$   ({unit})", k, curves, labels)


def law(
    k: Ks, measured: Curves, theory: Mapping[str, Curves], labels: Sequence[str], *,
    unit: str = "nats²",
) -> Figure:  # fmt: skip
    """Δ_k by Monte-Carlo beside each named theory, a panel per label.

    Figure 9 of Nikitin et al. 2025 shows the diagonal form of the curvature part alone.
    """
    curves = {"Monte-Carlo": measured, **theory}
    return _side_by_side("Law against Monte-Carlo", rf"$\Delta_k$   ({unit})", k, curves, labels)


def _side_by_side(
    title: str, ylabel: str, k: Ks, curves: Mapping[str, Curves], labels: Sequence[str]
) -> Figure:
    """The named curves of each label in a panel of its own, all but the first dashed."""
    figure, panels = canvas(title, PREFIX, ylabel, labels)
    for row, axes in enumerate(panels):
        for column, (name, values) in enumerate(curves.items()):
            style.draw_mean(axes, column, k, values[row], 0.0, name, dash="--" if column else "-")
    return style.finish(figure, style.BINNED)


def law_parts(k: Ks, parts: Mapping[str, Curves], labels: Sequence[str]) -> Figure:
    """The named parts of Δ_k, stacked, as shares of their sum per bin of k, a panel per label.

    A negative part lies below zero: the others together then exceed one by as much.
    """
    title = r"Parts of the quadratic law's $\Delta_k$"
    figure, panels = canvas(title, PREFIX, r"share of the law's $\Delta_k$", labels)
    for row, axes in enumerate(panels):
        binned = {name: style.log_bins(k, values[row], num=30) for name, values in parts.items()}
        at, means = next(iter(binned.values())).k, np.stack([b.mean for b in binned.values()])
        whole = means.sum(0)
        share = np.divide(means, whole, out=np.zeros_like(means), where=whole > 0)
        look: Keywords = {"colors": style.COLOURS, "lw": 0, "alpha": 0.85}
        axes.stackplot(at, np.maximum(share, 0), labels=binned, **look)
        axes.stackplot(at, np.minimum(share, 0), **look)
        axes.axhline(0, color="0.2", lw=1)
        axes.set_xscale("log")
    return legend(figure, "mean per logarithmic bin of k")


def law_agreement(
    sigma: Row, ratio: Row, sem: Row, median: Row, parts: Mapping[str, Row]
) -> Figure:
    """Law over Monte-Carlo against σ.

    Args:
        sigma: standard deviations per direction.
        ratio, sem: of the means over k, each weighted by k(k+1), with its standard error.
        median: of the ratio at each k.
        parts: share of each named part in the law; a negative one is not drawn.
    """
    xlabel = r"$\sigma$ (standard deviation per direction, units of the parameters)"
    figure, (axes,) = canvas("Where the quadratic law holds", xlabel, "law / Monte-Carlo")
    axes.axhspan(0.9, 1.1, color="0.85", lw=0)
    for row, (name, share) in enumerate(parts.items(), start=2):
        part = share * ratio
        shown = part > 0
        axes.plot(sigma[shown], part[shown], "--", **curve(row, ms=4, lw=1.2, label=f"{name} part"))
    axes.plot(sigma, median, ":", label="full law, median", **curve(1, ms=6))
    bars = np.minimum(sem, 0.999 * ratio), sem
    axes.errorbar(sigma, ratio, bars, label="full law", **curve(0, ms=6, capsize=4, lw=2))
    note = r"each $k \geq 100$ weighted by $k(k+1)$; bars: standard error; grey: within 10 %"
    style.finish(figure, note)
    axes.set_ylim(bottom=max(1e-10, axes.get_ylim()[0]))
    return figure


def sufficient_sizes(
    tolerances: Float[np.ndarray, "t"], measured: Int[np.ndarray, "s t"],
    predicted: Float[np.ndarray, "s 3 t"], k_max: int, labels: Sequence[str], *,
    unit: str = "nats²",
) -> Figure:  # fmt: skip
    """K against tolerance, a colour per label.

    Args:
        measured: K by Definition 4 on the curve; −1 where it is not reached, and then not drawn.
        predicted: K by the order law between its limits; NaN where it is not reached.
        k_max: samples of the run, drawn as a grey line: no run of them measures a larger K.
    """
    xlabel = rf"tolerance of $\Delta_k$ ({unit})"
    figure, (axes,) = canvas("Sufficient sample size", xlabel, "$K$ (samples)")
    for row, label in enumerate(labels):
        reached = measured[row] >= 1
        late = measured[row] > LATE * k_max
        for shown, more in ((reached & ~late, {"label": label}), (reached & late, {"mfc": "w"})):
            axes.plot(tolerances[shown], measured[row][shown], **curve(row, ms=4, lw=0, **more))
        low, middle, high = predicted[row]
        axes.fill_between(tolerances, low, high, color=colour(row), alpha=0.25, lw=0)
        axes.plot(tolerances, middle, "--", color=colour(row))
    axes.plot([], [], "--", color="0.3", label="order law, 90 %")
    axes.axhline(k_max, color="0.5", lw=1)
    note = f"marker: one past the last exceedance, hollow near the end; grey: all {k_max:,} samples"
    return style.finish(figure, note)


def eigenvalues(
    values: Float[np.ndarray, "d"], residuals: Float[np.ndarray, "d"], *, unit: str = "nats"
) -> Figure:
    """Eigenvalues in the order given, residual ‖Hv − λv‖ as error bar, the sign as marker."""
    ylabel = rf"eigenvalue $\lambda$ ({unit} / $\|w\|^2$)"
    figure, (axes,) = canvas("Hessian eigenvalues", "index", ylabel)
    index = np.arange(1, len(values) + 1)
    for row, (chosen, sign) in enumerate([(values >= 0, "not negative"), (values < 0, "negative")]):
        if chosen.any():
            look = curve(row, marker="ov"[row], lw=0, elinewidth=1.5, capsize=4)
            look["label"] = None if chosen.all() else sign
            axes.errorbar(index[chosen], values[chosen], residuals[chosen], **look)
    axes.axhline(0, color="0.4", lw=1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return legend(figure, f"bars: residual ‖Hv − λv‖, at most {residuals.max():.1g}")


Steps = Float[np.ndarray, "a"] | Float[np.ndarray, "2 a"] | Sequence[Float[np.ndarray, "_"]]
"""Coordinates along both directions: one array for both alike, or one for each, of any lengths."""
Paths = Float[np.ndarray, "T 2"] | Mapping[str, Float[np.ndarray, "_ 2"]]
"""Coordinates of a network after each epoch of its training; of several runs, by their names."""
Sheets = Mapping[str, Float[np.ndarray, "a b"]]
"""Values over the grid, [a, b] or flat, by the names of their panels."""


def contours(
    steps: Steps, sheets: Sheets, *, title: str, quantity: str | Sequence[str],
    path: Paths | None = None,
) -> Figure:  # fmt: skip
    """Every named sheet z[i, j] at (steps[0, i], steps[1, j]) in colour, with lines of equal z.

    A cross marks the trained point, at the origin. Colours are logarithmic where no value is below
    0. Panels of one quantity share them, unless their values are too far apart, which the legend
    then says.

    Args:
        steps: the grid's coordinates; a grid need not be square.
        sheets: a panel each, such as a row of ``js.surface(...).loss``. What is not finite stays
            white.
        quantity: what z is, with its unit; for all panels, or for each.
        path: where the network was, or several.
    """
    along, sheets, quantities = _checked(steps, sheets, quantity)
    figure, panels = canvas(title, *AXES, list(sheets))
    scales = _scales(quantities, list(sheets.values()))
    with matplotlib.rc_context(STYLE):
        for row, (axes, sheet) in enumerate(zip(panels, sheets.values(), strict=True)):
            low, high, is_log = scales[row]
            look: Keywords = {"cmap": "viridis", "shading": "gouraud", "rasterized": True}
            look["norm"] = LogNorm(low, high, clip=True) if is_log else Normalize(low, high)
            mesh = axes.pcolormesh(*along, sheet.T, **look)
            if low < high:
                levels = (np.geomspace if is_log else np.linspace)(low, high, 13)[1:-1]
                axes.contour(*along, sheet.T, levels, colors="w", linewidths=0.5, alpha=0.7)
            axes.grid(False)
            axes.set(xlim=along[0][[0, -1]], ylim=along[1][[0, -1]])
            bar = figure.colorbar(mesh, ax=axes, label=quantities[row])
            if is_log and high >= 100 * low:
                bar.locator = LogLocator(numticks=7)
                bar.minorticks_off()
            for name, points, look in _named(path):
                axes.plot(*points.T, label=name, **look)
            axes.plot(0, 0, "+", color="w", ms=13, mew=3.5)
            axes.plot(0, 0, "+", color="k", ms=11, mew=1.6, label="trained point")
    shared = len(set(scales)) == len(set(quantities))
    return legend(figure, "" if shared else "colours differ between panels")


def _checked(
    steps: Steps, sheets: Mapping[str, Float[np.ndarray, "..."]], quantity: str | Sequence[str] = ""
) -> tuple[list[Float[np.ndarray, "_"]], dict[str, Float[np.ndarray, "a b"]], list[str]]:
    """Steps along each axis, sheets as [a, b] with NaN where not finite, a quantity for each."""
    along = [np.asarray(steps)] * 2 if np.ndim(steps[0]) == 0 else [*map(np.asarray, steps)]
    if not isinstance(sheets, Mapping) or not sheets:
        raise InputError(f"expected sheets by their names, found {short(sheets)}; give a dict")
    (a, b), found = map(len, along), {}
    for name, sheet in sheets.items():
        values = np.asarray(sheet, float)
        if values.shape not in ((a, b), (a * b,)) or not np.isfinite(values).any():
            raise InputError(
                f"expected a sheet of shape ({a}, {b}), somewhere finite, found {values.shape} for "
                f"{name!r}; reshape it, or look at its values"
            )
        found[name] = np.where(np.isfinite(values), values, np.nan).reshape(a, b)
    return along, found, [quantity] * len(found) if isinstance(quantity, str) else [*quantity]


def _named(path: Paths | None) -> Iterator[tuple[str, Float[np.ndarray, "T 2"], Keywords]]:
    """Each path with its name and its look: a single one white, several in colours."""
    if path is None:
        return
    runs = path if isinstance(path, Mapping) else {"training, an epoch a dot": path}
    look: Keywords = {"lw": 1.2, "marker": "o", "ms": 3.5, "mec": "k", "mew": 0.5}
    for row, (name, points) in enumerate(runs.items()):
        yield name, points, look | {"color": "w" if len(runs) == 1 else colour(row)}


def _scales(quantities: list[str], sheets: list[np.ndarray]) -> list[tuple[float, float, bool]]:
    """The range of each sheet's colours, of all sheets of a quantity unless some lie apart."""
    own, found = [_scale(sheet) for sheet in sheets], []
    for quantity, scale in zip(quantities, own, strict=True):
        alike = [row for row, other in enumerate(quantities) if other == quantity]
        lows, highs, logs = zip(*(own[row] for row in alike), strict=True)
        close = len(set(logs)) == 1 and max(lows) < min(highs)
        found.append(_scale(np.stack([sheets[row] for row in alike])) if close else scale)
    return found


def _scale(sheet: Float[np.ndarray, "..."]) -> tuple[float, float, bool]:
    """The range of the finite values, logarithmic (True) over at most 1e8 if none is below 0."""
    finite = sheet[np.isfinite(sheet)]
    positive = finite[finite > 0]
    if not positive.size or (finite < 0).any() or positive.max() <= positive.min():
        return float(finite.min()), float(finite.max()), False
    return float(max(positive.min(), positive.max() / 1e8)), float(positive.max()), True


def reliefs(
    steps: Steps, sheets: Sheets, *, title: str, quantity: str | Sequence[str],
    path: Paths | None = None, is_log: bool = True,
) -> Figure:  # fmt: skip
    """Every named sheet as a surface in three dimensions; see ``contours``.

    A dot marks the trained point; a path lies on the surface. Heights are decimal logarithms where
    no value is below 0, or as they are without ``is_log``.
    """
    along, sheets, quantities = _checked(steps, sheets, quantity)
    columns = min(len(sheets), 2)
    rows = -(-len(sheets) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.0 + 4.4 * columns, 0.8 + 3.9 * rows))
        figure.suptitle(title, fontsize=12)
        for number, (panel, sheet) in enumerate(sheets.items()):
            axes: Any = figure.add_subplot(rows, columns, number + 1, projection="3d", title=panel)
            heights, label = _heights(sheet, quantities[number], is_log)
            look: Keywords = {"cmap": "viridis", "lw": 0, "rstride": 1, "cstride": 1}
            plane = np.meshgrid(*along, indexing="ij")
            axes.plot_surface(*plane, heights, rasterized=True, **look)
            at = RegularGridInterpolator(along, heights, bounds_error=False)
            for name, points, look in _named(path):
                axes.plot(*points.T, at(points), label=name, zorder=9, **look)
            origin = tuple(int(np.abs(steps).argmin()) for steps in along)
            axes.plot(0, 0, heights[origin], "o", color="k", ms=5, zorder=10)
            axes.set(xlabel=AXES[0], ylabel=AXES[1], zlabel=label)
            for axis, pad in ((axes.xaxis, 12), (axes.yaxis, 12), (axes.zaxis, 20)):
                axis.set_major_locator(MaxNLocator(4, steps=(1, 2, 5, 10)))
                axis.labelpad = pad
            axes.tick_params("z", pad=10)
            axes.view_init(elev=32, azim=-55)
            axes.set_box_aspect(None, zoom=0.76)
        if path is not None:
            legend(figure, "")
    return figure


def _heights(sheet: np.ndarray, quantity: str, wants_log: bool) -> tuple[np.ndarray, str]:
    """Decimal logarithms where wanted and possible, else the values; what they are."""
    low, _, is_log = _scale(sheet)
    if is_log and wants_log:
        return np.log10(np.maximum(sheet, low)), rf"$\log_{{10}}$ {quantity}"
    power = int(np.floor(np.log10(max(np.nanmax(np.abs(sheet)), np.finfo(np.float32).tiny))))
    if wants_log or -1 <= power <= 2:
        return sheet, quantity
    return sheet / 10.0**power, rf"{quantity}, $\times 10^{{{power}}}$"  # short numbers


def write_vtk(path: str | Path, steps: Steps, sheets: Sheets) -> None:
    """Write sheets as a legacy VTK file, for ParaView: *Warp By Scalar* makes a relief of one.

    The path ends in ``.vtk``. Steps and sheets are as for ``contours``.
    """
    (first, second), sheets, _ = _checked(steps, sheets)
    lines = ["# vtk DataFile Version 3.0", "loss surface", "ASCII", "DATASET RECTILINEAR_GRID"]
    lines.append(f"DIMENSIONS {len(first)} {len(second)} 1")
    for axis, along in zip("XYZ", (first, second, np.zeros(1)), strict=True):
        lines += [f"{axis}_COORDINATES {len(along)} double", " ".join(f"{x:.9g}" for x in along)]
    lines.append(f"POINT_DATA {len(first) * len(second)}")
    for name, sheet in sheets.items():
        lines += [f"SCALARS {'_'.join(name.split())} double 1", "LOOKUP_TABLE default"]
        lines += [f"{value:.9g}" for value in sheet.ravel(order="F")]  # the first axis runs fastest
    Path(path).write_text("\n".join([*lines, ""]))


def name_data(figure: Figure, dataset: str, *, fallback: bool = False) -> Figure:
    """The figure, its title with the name of its data; in red where they stand in for MNIST."""
    mark = "\nFALLBACK DATA: in place of MNIST, which was not available" if fallback else ""
    title = f"{figure.get_suptitle()}: {dataset}{mark}".replace("?:", "?")
    figure.suptitle(title, color="#B00000" if fallback else "black", fontsize=12)
    return figure


def save(figure: Figure, folder: str | Path, name: str) -> None:
    """Write ``folder/name.png`` (200 dots per inch) and ``folder/name.pdf``.

    The same figure gives the same bytes. Raises ``OSError`` where they cannot be written.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        style.thin(figure)
        for kind, metadata in (("png", None), ("pdf", {"CreationDate": None})):
            drawn = io.BytesIO()  # first, for matplotlib reports a full disk in other errors too
            figure.savefig(drawn, format=kind, dpi=200, metadata=metadata)
            Path(folder, f"{name}.{kind}").write_bytes(drawn.getvalue())
            figure.set_layout_engine("none")  # laid out once, which takes as long as drawing
