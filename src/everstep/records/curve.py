"""The picture of a training: control gain and benefit over steps with their intervals, and the jump; below them the
loss, which is silent.

Draws with Pillow, twice as large as it is saved, so that lines come out smooth. Knows nothing of files.
"""

from collections.abc import Callable, Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from everstep.records.verdict import Gain, Point, Verdict, line_of

WIDTH, HEIGHT, SCALE = 860, 450, 2
LEFT, RIGHT, TOP, BOTTOM, BETWEEN, SPLIT = 64, 24, 88, 34, 44, 0.68  # pixels; the share of the upper panel
PAPER, INK, FAINT, GRID, ZERO = (250, 250, 248), (40, 40, 44), (130, 130, 134), (226, 226, 222), (170, 170, 172)
GAIN, GAIN_BAND, BENEFIT, BENEFIT_BAND = (20, 110, 200), (205, 224, 245), (20, 135, 75), (208, 234, 218)
LOSS, JUMP = (150, 150, 155), (215, 95, 20)
LOWEST = -0.5  # what ruins the base may be at -20; below this it is enough to see that it does
Colour = tuple[int, int, int]
Place = Callable[[float, float], tuple[float, float]]  # step, value -> x, y
Curve = list[tuple[int, float, float, float]]  # step, value, low, high


def draw_curve(title: str, points: Sequence[Point], losses: Mapping[int, float], verdict: Verdict) -> Image.Image:
    """Draw the line of versions that leads to the newest.

    Args:
        losses: smoothed training loss by version, where it is known.
    """
    line = line_of(points)
    page = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), PAPER)
    pen = _Pen(ImageDraw.Draw(page))
    gains = [(point.step, point.gain.value, point.gain.low, point.gain.high) for point in line]
    benefits = [(point.step, *found) for point in line if (found := _benefit(point.gain)) is not None]
    pen.text((LEFT, 8), title, INK, 15)
    pen.text((LEFT, 29), verdict.sentence, INK, 13)
    pen.text((LEFT, 50), "control gain: the condition is heard", GAIN, 12)
    if benefits:
        pen.text((LEFT + 235, 50), "benefit: better than the base, which is 0", BENEFIT, 12)
    last_step = max((point.step for point in line), default=0) or 1
    split = TOP + (HEIGHT - TOP - BOTTOM - BETWEEN) * SPLIT
    lows, highs = ([row[column] for row in (*gains, *benefits)] for column in (2, 3))
    upper = _panel(pen, (TOP, split), last_step, (max(LOWEST, min([0.0, *lows])), max([0.1, *highs])))
    pen.line([upper(0, 0), upper(last_step, 0)], ZERO, 1)
    _jump(pen, upper, line, verdict)
    for curve, band in ((benefits, BENEFIT_BAND), (gains, GAIN_BAND)):
        _band(pen, upper, curve, band)
    for curve, ink in ((benefits, BENEFIT), (gains, GAIN)):
        _curve(pen, upper, curve, ink)
    known = [(point.step, losses[point.version]) for point in line if point.version in losses]
    if known:
        values = [value for _, value in known]
        pen.text((LEFT, split + BETWEEN - 20), "training loss", FAINT, 12)
        lower = _panel(pen, (split + BETWEEN, HEIGHT - BOTTOM), last_step, (0.0, max(values) * 1.1))
        pen.line([lower(step, value) for step, value in known], LOSS, 1.5)
    for step in _ticks(0, last_step):
        pen.text((upper(step, 0)[0], HEIGHT - BOTTOM + 8), f"{step:,.0f}", FAINT, 11, "ma")
    pen.text((WIDTH - RIGHT, HEIGHT - 14), "step", FAINT, 11, "ra")
    return page.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def _benefit(gain: Gain) -> tuple[float, float, float] | None:
    if gain.benefit is None or gain.benefit_low is None or gain.benefit_high is None:
        return None
    return gain.benefit, gain.benefit_low, gain.benefit_high


class _Pen:
    """Draws in pixels of the picture as it is saved."""

    def __init__(self, pen: ImageDraw.ImageDraw) -> None:
        self._pen = pen

    def text(self, at: tuple[float, float], text: str, ink: tuple[int, ...], size: int, anchor: str = "la") -> None:
        self._pen.text(_scaled(at), text, ink, ImageFont.load_default(size * SCALE), anchor)

    def line(self, places: Sequence[tuple[float, float]], ink: tuple[int, ...], width: float) -> None:
        self._pen.line([_scaled(place) for place in places], ink, round(width * SCALE), "curve")

    def area(self, places: Sequence[tuple[float, float]], ink: tuple[int, ...]) -> None:
        self._pen.polygon([_scaled(place) for place in places], ink)

    def dot(self, at: tuple[float, float], ink: tuple[int, ...], radius: float) -> None:
        x, y = at
        self._pen.ellipse([_scaled((x - radius, y - radius)), _scaled((x + radius, y + radius))], ink)


def _scaled(place: tuple[float, float]) -> tuple[float, float]:
    return place[0] * SCALE, place[1] * SCALE


def _panel(pen: _Pen, rows: tuple[float, float], last_step: int, values: tuple[float, float]) -> Place:
    """Grid and numbers of one panel; returns where a value lies in it."""
    top, bottom = rows
    low, high = values

    def place(step: float, value: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * step / last_step
        return across, bottom - (bottom - top) * (min(max(value, low), high) - low) / (high - low)

    for tick in _ticks(low, high, 4):
        pen.line([place(0, tick), place(last_step, tick)], GRID, 1)
        pen.text((LEFT - 8, place(0, tick)[1]), f"{tick:g}", FAINT, 11, "rm")
    return place


def _band(pen: _Pen, place: Place, curve: Curve, ink: Colour) -> None:
    if len(curve) > 1:
        above = [place(step, high) for step, _, _, high in curve]
        pen.area([*above, *(place(step, low) for step, _, low, _ in reversed(curve))], ink)


def _curve(pen: _Pen, place: Place, curve: Curve, ink: Colour) -> None:
    places = [place(step, value) for step, value, _, _ in curve]
    pen.line(places, ink, 2)
    for at in places if len(places) <= 60 else ():
        pen.dot(at, ink, 2.5)


def _jump(pen: _Pen, place: Place, line: Sequence[Point], verdict: Verdict) -> None:
    after = next((point for point in line if point.version == verdict.after), None)
    if after is None or verdict.before is None:
        return
    x, bottom = place(after.step, LOWEST)
    pen.line([(x, TOP - 16), (x, bottom)], JUMP, 1)
    said = f"the jump: step {after.step:,}, version_{after.version}"
    is_left = x > WIDTH * 0.7
    pen.text((x + (-6 if is_left else 6), TOP - 19), said, JUMP, 12, "ra" if is_left else "la")


def _ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round numbers from low to high, about `count` of them."""
    span = high - low
    power = 10.0 ** (len(f"{span / count:.0f}") - 1) if span / count >= 1 else 0.001
    widths = [power * factor for factor in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if power * factor >= span / count]
    width = widths[0]
    first = int(-(-low // width))
    return [number * width for number in range(first, int(high // width) + 1)]
