"""Pictures of errors and of answers: accuracy by distance, recall by area, maps of where answers went or may lie.

In: errors in km, areas in km2 and coordinates in degrees. Out: bytes of a picture, the same bytes for the same figures.
Colours are chosen so that people with any common colour blindness can tell them apart (Okabe and Ito's, and their
order on the map is also one of brightness); curves differ by dash as well, and long errors are long lines.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from indexer.earth.geo import EARTH_RADIUS_KM, FARTHEST_KM, distance_text
from search.evaluation.reliability import Bin
from search.pages.base_map import BaseMap, base_map

# An upper limit of the error in km, how a legend says it, and the colour.
ERROR_COLOURS: tuple[tuple[float, str, str], ...] = (
    (25.0, "up to 25 km", "#004d80"),
    (200.0, "25 to 200 km", "#2297d9"),
    (750.0, "200 to 750 km", "#009e73"),
    (2500.0, "750 to 2,500 km", "#e69f00"),
    (float("inf"), "more", "#d1457b"),
)

_STYLES = (("#0072b2", "-"), ("#d55e00", "--"), ("#009e73", "-."), ("#595959", ":"), ("#cc79a7", (0, (6, 2))))
_POINTS = 200  # finer than a line on paper, and an SVG stays small
_MARKED_KM = (0.05, 0.2, 1.0, 25.0, 200.0, 750.0, 2500.0)
_FAINTEST = 1e-4  # share of the likeliest cell's that is drawn at all
_MAPPED_SHARE = 0.9  # of a posterior that a map of the surroundings shows, where no radius is known
_DEGREE_KM = np.pi * EARTH_RADIUS_KM / 180
_SEA = "#dfe9f0"
_LEAST_REACH = 0.003  # degrees from an answer that its surroundings show at least
_MAP_LINES = 1500  # lines on the map: more hide each other
# Of all pictures; the font is the one that matplotlib brings.
_in_style = rc_context({"font.family": "DejaVu Sans", "font.size": 10, "svg.hashsalt": "geosurge"})


@_in_style
def accuracy_curve(
    errors_km: Mapping[str, np.ndarray], *, from_km: float = 1.0, kind: Literal["png", "svg"] = "png"
) -> bytes:
    """The percentage of photos (y) whose error is at most a distance (x, logarithmic), one line a method.

    errors_km: label -> (N,), at most five labels; NaN is a photo without an answer, which is never within.
    """
    limits = np.geomspace(from_km, FARTHEST_KM, _POINTS)
    curves = {}
    for label, errors in errors_km.items():
        answered = np.sort(errors[~np.isnan(errors)])
        curves[label] = 100 * np.searchsorted(answered, limits, side="right") / len(errors)
    figure, axes = _curves(limits, curves)
    marked = [km for km in _MARKED_KM if km >= from_km]
    axes.set_xticks(marked, [f"{km:,g}" for km in marked])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="distance from the true place, km", ylabel="photos within that distance, %")
    return _picture(figure, kind)


@_in_style
def recall_curve(percent: Mapping[str, np.ndarray], areas_km2: Sequence[float]) -> bytes:
    """PNG of the percentage of photos (y) whose true place lies in the first so many km2 of their answer (x).

    percent: label -> (A,), at most five labels. areas_km2: (A,), rising.
    """
    figure, axes = _curves(np.asarray(areas_km2), percent)
    axes.set(xlabel="area searched, km2 (the Earth: 5.1e8)", ylabel="photos found in that area, %")
    return _picture(figure, "png")


@_in_style
def error_map(true_deg: np.ndarray, predicted_deg: np.ndarray, errors_km: np.ndarray) -> bytes:
    """PNG of a world map with a dot at each true place and a line from it to the answer.

    Where there are more photos than can be told apart, evenly spaced rows are drawn.

    true_deg, predicted_deg: (N, 2) latitude and longitude in degrees. errors_km: (N,), NaN where there is no answer.
    """
    answered = np.flatnonzero(~np.isnan(errors_km))
    rows = answered[np.linspace(0, len(answered) - 1, min(_MAP_LINES, len(answered))).astype(np.intp)]
    figure, axes = _panel(10.0, 5.6)
    _draw_land(axes, base_map())
    lower, alpha = 0.0, 0.75 if len(rows) < _MAP_LINES // 5 else 0.35
    for limit, label, colour in ERROR_COLOURS:
        part = rows[(errors_km[rows] >= lower) & (errors_km[rows] < limit)]
        lines = map_lines(true_deg[part], predicted_deg[part])
        axes.add_collection(LineCollection(lines, colors=colour, linewidths=0.8, alpha=alpha), autolim=False)
        axes.plot(
            true_deg[part, 1], true_deg[part, 0], "o", color=colour, markersize=3.0, markeredgewidth=0, label=label
        )
        lower = limit
    _whole_world(axes)
    _map_style(axes)
    figure.legend(loc="outside upper left", ncols=5, frameon=False, fontsize=9, title="error", alignment="left")
    return _picture(figure, "png")


@_in_style
def reliability_diagram(bins: Sequence[Bin]) -> bytes:
    """PNG of the share of answers that came true (y) by the probability that was promised (x), a dot for each bin.

    The area of a dot is how many photos its bin holds.
    """
    promised, came_true, photos = (
        np.array([getattr(each, name) for each in bins]) for name in ("promised", "came_true", "photos")
    )
    figure, axes = _panel(4.6, 4.4)
    axes.plot((0, 1), (0, 1), "--", color="#595959", linewidth=1.0, label="as promised")
    axes.plot(promised, came_true, "-", color=_STYLES[0][0], linewidth=1.2)
    sizes = 12 + 220 * photos / photos.max()
    axes.scatter(promised, came_true, s=sizes, color=_STYLES[0][0], alpha=0.75, linewidths=0, label="photos")
    axes.set(xlim=(0, 1), xlabel="promised: probability of the answered cell")
    axes.set(ylim=(0, 1), ylabel="came true: the true place lies in it", aspect="equal")
    _tidy(axes)
    axes.legend(loc="upper left", frameon=False, fontsize=9)
    return _picture(figure, "png")


@_in_style
def posterior_map(
    outlines_deg: np.ndarray,
    shares: np.ndarray,
    answer_deg: tuple[float, float],
    radii_km: Sequence[float],
    *,
    photos: Sequence[tuple[float, float, float]] = (),
) -> bytes:
    """PNG of a world map and of the surroundings of an answer, with cells coloured by their share of a posterior.

    Cells that hold less than a ten-thousandth of what the likeliest one does are left blank.

    outlines_deg: (N, K, 2) latitude and longitude around each cell. shares: (N,). answer_deg: latitude and longitude.
    radii_km: of circles around the answer, at most two; the surroundings are as wide as the last one takes, or as
    most of the posterior takes. photos: latitude, longitude and weight of photos that decided, drawn as large as they
    weigh.
    """
    lat, lng = answer_deg
    coloured = shares >= _FAINTEST * shares.max()
    outlines_deg, shares = outlines_deg[coloured], shares[coloured]
    around = np.stack([(outlines_deg[..., 1] - lng + 180) % 360 - 180 + lng, outlines_deg[..., 0]], axis=-1)
    # A ring that passes the far side of the Earth from the answer is drawn in one piece there.
    around[..., 0] = np.degrees(np.unwrap(np.radians(around[..., 0]), axis=1))
    apart = np.abs(around - (lng, lat)).max(axis=(1, 2))
    order = np.argsort(apart)
    held = np.cumsum(shares[order])
    most = apart[order][min(int(np.searchsorted(held, _MAPPED_SHARE * held[-1])), len(order) - 1)]
    reach = max(1.3 * radii_km[-1] / _DEGREE_KM if radii_km else most, _LEAST_REACH)
    figure = Figure(figsize=(10.0, 3.7), layout="constrained")
    world, near = figure.subplots(1, 2, width_ratios=(1.7, 1.0))
    colours = LogNorm(_FAINTEST * shares.max(), shares.max())
    stretch = max(np.cos(np.radians(lat)), 0.05)  # a degree of longitude in degrees of latitude
    aside = min(reach / stretch, 180.0)  # no wider than the Earth
    window = (lng - aside, max(lat - reach, -90.0), lng + aside, min(lat + reach, 90.0))
    for axes, land in ((world, base_map()), (near, base_map("intermediate").near(*window))):
        _draw_land(axes, land)
        for turn in (-360, 0, 360):
            cells = PolyCollection(
                around + np.array((turn, 0.0)), array=shares, norm=colours, cmap="YlGnBu", edgecolors="none", alpha=0.75
            )
            drawn = axes.add_collection(cells, autolim=False)
        _map_style(axes)
    _whole_world(world)
    world.plot(lng, lat, "o", markersize=9, markerfacecolor="none", markeredgecolor="#d55e00", markeredgewidth=1.6)
    near.set(xlim=window[::2], ylim=window[1::2], aspect=1 / stretch)
    near.xaxis.set_major_locator(MaxNLocator(4))
    near.yaxis.set_major_locator(MaxNLocator(5))
    near.plot(lng, lat, "+", color="#d55e00", markersize=11, markeredgewidth=1.8)
    for photo_lat, photo_lng, weight in photos:
        place, size = (photo_lng - lng + 180) % 360 - 180 + lng, 3 + 12 * weight**0.5
        near.plot(place, photo_lat, "o", markersize=size, markerfacecolor="none", markeredgecolor="#cc79a7")
    for km, dash in zip(radii_km, ("-", "--"), strict=False):
        ring_lat, ring_lng = _circle(lat, lng, km)
        near.plot(ring_lng, ring_lat, dash, color="#d55e00", linewidth=1.2, label=distance_text(km))
    if radii_km:
        near.legend(loc="upper right", fontsize=8, frameon=True)
    figure.colorbar(drawn, ax=near, label="share of the probability", shrink=0.8).ax.tick_params(labelsize=8)
    return _picture(figure, "png")


def _draw_land(axes: Axes, shapes: BaseMap) -> None:
    """Land, lakes and borders below all else."""
    axes.set_facecolor(_SEA)
    for rings, colour, order in ((shapes.land, "#f1efe8", 0.0), (shapes.lakes, _SEA, 0.1)):
        axes.add_collection(PolyCollection(rings, facecolors=colour, edgecolors="none", zorder=order), autolim=False)
    borders = LineCollection(shapes.borders, colors="#b9b3a6", linewidths=0.4, zorder=0.2)
    axes.add_collection(borders, autolim=False)


def _circle(lat_deg: float, lng_deg: float, km: float) -> tuple[np.ndarray, np.ndarray]:
    """Latitudes and longitudes of a circle around a point, longitudes without a jump."""
    turn, angle = np.linspace(0, 2 * np.pi, 181), km / EARTH_RADIUS_KM
    north = np.radians(np.clip(lat_deg, -89.9999, 89.9999))  # at a pole itself every direction is one
    lat = np.arcsin(np.sin(north) * np.cos(angle) + np.cos(north) * np.sin(angle) * np.cos(turn))
    aside = np.sin(turn) * np.sin(angle) * np.cos(north), np.cos(angle) - np.sin(north) * np.sin(lat)
    return np.degrees(lat), lng_deg + np.degrees(np.unwrap(np.arctan2(*aside)))


@_in_style
def rate_curve(minutes: Sequence[float], rates: Sequence[float]) -> bytes:
    """PNG of rows per second (y) over the minutes since a job was started (x), as steps.

    minutes: (B + 1,), where each of the B steps begins and the last one ends. rates: (B,).
    """
    figure, axes = _panel(7.0, 2.8)
    axes.stairs(rates, minutes, baseline=None, color=_STYLES[0][0], linewidth=1.6)
    axes.set(xlim=(minutes[0], minutes[-1]), xlabel="minutes since the latest start")
    axes.set(ylim=(0, 1.08 * max(rates)), ylabel="rows per second")
    _tidy(axes)
    return _picture(figure, "png")


def map_lines(true_deg: np.ndarray, predicted_deg: np.ndarray) -> list[np.ndarray]:
    """Lines on an equirectangular map, the short way round: one for each pair, two where it passes 180 degrees.

    true_deg, predicted_deg: (N, 2) latitude and longitude. Each line is (2, 2) with rows (longitude, latitude).
    """
    lines: list[np.ndarray] = []
    for (lat_a, lng_a), (lat_b, lng_b) in zip(true_deg.tolist(), predicted_deg.tolist(), strict=True):
        east = (lng_b - lng_a + 180.0) % 360.0 - 180.0  # from -180 to 180: positive when b lies to the east
        if abs(lng_b - lng_a) <= 180.0:
            lines.append(np.array([(lng_a, lat_a), (lng_b, lat_b)]))
            continue
        edge = 180.0 if east > 0 else -180.0
        lat_edge = lat_a + (lat_b - lat_a) * ((edge - lng_a) / east if east else 0.0)
        lines.append(np.array([(lng_a, lat_a), (edge, lat_edge)]))
        lines.append(np.array([(-edge, lat_edge), (lng_b, lat_b)]))
    return lines


def _panel(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _tidy(axes: Axes) -> None:
    axes.set_axisbelow(True)
    axes.grid(color="#d9d9d9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _map_style(axes: Axes) -> None:
    axes.set_aspect("equal")
    axes.tick_params(labelsize=8, length=0)
    axes.grid(color="#ececec", linewidth=0.6)
    axes.set_axisbelow(True)


def _whole_world(axes: Axes) -> None:
    axes.set(xlim=(-180, 180), ylim=(-90, 90), xticks=range(-180, 181, 60), yticks=range(-90, 91, 30))


def _curves(x: np.ndarray, curves: Mapping[str, np.ndarray]) -> tuple[Figure, Axes]:
    figure, axes = _panel(6.0, 4.2)
    for (label, percent), (colour, dash) in zip(curves.items(), _STYLES, strict=False):
        # matplotlib reads a dollar as the start of a formula, and leaves out what begins with an underscore.
        axes.plot(x, percent, color=colour, linestyle=dash, linewidth=1.8, label=f"\u200b{label}".replace("$", r"\$"))
    axes.set(xscale="log", xlim=(x[0], x[-1]), ylim=(0, 100))
    _tidy(axes)
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    return figure, axes


def _picture(figure: Figure, kind: Literal["png", "svg"]) -> bytes:
    stream = io.BytesIO()
    dated_by = {"png": "Software", "svg": "Date"}[kind]  # left out: the same figures, the same bytes
    figure.savefig(stream, format=kind, metadata={dated_by: None})
    return stream.getvalue()
