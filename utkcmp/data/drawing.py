"""Drawing synthetic faces that show their age.

Several cues (proportions, wrinkles, grey or missing hair, ...) depend on age, each with an
independent error. Coordinates are pixels of the final 200 x 200 picture, from its centre, x right,
y down.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE, SCALE = 200, 2  # pixels per side; factor of supersampling
SHARES = [0.43, 0.19, 0.14, 0.17, 0.07]  # White, Black, Asian, Indian, Others
SKIN = [(240, 202, 178), (124, 83, 60), (236, 198, 158), (184, 132, 94), (212, 166, 132)]
HAIR = [(38, 30, 28), (62, 42, 32), (104, 70, 44), (206, 164, 98), (158, 78, 42)]
IRIS = [(64, 42, 30), (92, 62, 38), (96, 112, 72), (92, 128, 158)]
CLOTHES = [(198, 84, 74), (66, 104, 150), (92, 140, 108), (226, 178, 84), (120, 96, 140)]
GREY, INK, WHITE = (214, 213, 210), (44, 32, 32), (250, 248, 244)


class DrawnFace:
    """A face's label, age cues and looks, drawn as in UTKFace; age may be given, in years."""

    def __init__(self, rng: np.random.Generator, age: int | None = None):
        self.rng, self.age = rng, _age(rng) if age is None else age
        self.gender, self.ethnicity = int(rng.random() < 0.48), int(rng.choice(5, p=SHARES))
        cue, man, adult, white = self._cue, not self.gender, self.age >= 18, self.ethnicity == 0
        grey = cue(32, 34) * (0.15 if not man and rng.random() < 0.35 else 1)  # some is dyed
        hair = HAIR[rng.choice(5, p=[0.15, 0.25, 0.3, 0.2, 0.1] if white else [0.7, 0.3, 0, 0, 0])]
        styles = ["short", "side", "curly"] if man else ["long", "bob", "bun", "fringe", "curly"]
        styles = ["curly", "curly", styles[0]] if self.ethnicity == 1 else styles
        # Cues from 0 to 1: adult proportions; depth of wrinkles; sagging jowls, lids and bags, long
        # ears and nose, thin lips; receding hairline. Also the number of age spots, and grey hair.
        self.growth = 1 - np.exp(-10 * cue(0, 100, 4) - 0.02)
        self.wrinkles, self.sag = cue(20, 54), cue(24, 56)
        self.bald = cue(22, 42) * rng.beta(1.4, 1.4) * (1.2 if man else 0.25)
        self.spots = rng.poisson(5 * cue(42, 50))
        self.glasses = rng.random() < (0.12 + 0.4 * cue(38, 25) if self.age > 5 else 0.02)
        self.beard = rng.choice(["", "", "stubble", "full", "moustache"] if man and adult else [""])
        skin = np.multiply(SKIN[self.ethnicity], rng.normal(1, 0.06)) + rng.normal(0, 3, 3)
        self.skin = np.clip(skin, 30, 248)  # RGB
        hair = np.multiply(hair, rng.normal(1, 0.1) * (1 - grey)) + np.multiply(GREY, grey)
        self.hair, self.iris = hair, IRIS[rng.integers(4 if white else 2)]
        self.style, self.smile = rng.choice(styles), rng.uniform(-0.1, 1)
        self.turn = rng.normal(0, 3)  # horizontal offset of the features
        self.light = rng.normal(0, 0.08, 2)  # brightness gradient, (right, down)
        self.eyes = self.mix(36, 37), self.mix(-2, -30)  # x of the right one, y of both
        jaw, m = (62, 55)[self.gender], self.mix
        crown = [(0, m(-86, -92)), (m(50, 44), m(-76, -82)), (m(80, 71), m(-36, -46))]
        cheek = [(m(84, 75), m(6, -10)), (m(81, 71), m(36, 26)), (m(66, jaw), m(60, 57))]
        jowl = np.multiply([(0, 0)] * 4 + [(2, 0), (8, 2), (10, 1), (0, 0)], self.sag)
        half = np.array([*crown, *cheek, (m(36, 31), m(78, 79)), (0, m(83, 88))])
        self.outline = half + jowl  # right half of the head's, crown to chin

    def _cue(self, start: float, years: float, error: float = 6) -> float:
        """0 up to age ``start``, rising to 1 after ``years``; the age has a normal error."""
        seems = self.age + self.rng.normal(0, error) * self.age / (self.age + 10)
        return min(max((seems - start) / years, 0.0), 1.0)

    def mix(self, baby: float, adult: float) -> float:
        """Interpolate between a baby's and an adult's measure."""
        return baby + (adult - baby) * self.growth

    def shade(self, factor: float) -> np.ndarray:
        """The skin colour times ``factor``."""
        return np.minimum(self.skin * factor, 255)


class StandIns:
    """Drawn faces in place of photographs: by row, one of the same age, uint8 (3, 100, 100).

    ages: (N,) years.
    """

    def __init__(self, ages: np.ndarray):
        self.ages = np.asarray(ages)

    def __getitem__(self, row: int) -> np.ndarray:
        face = draw_face(DrawnFace(np.random.default_rng(int(row)), int(self.ages[row])))
        return np.asarray(face.reduce(2)).transpose(2, 0, 1)


def _age(rng) -> int:
    """An age in years: many of 1 to 5, a broad peak at 26, a tail to 100."""
    part = rng.choice(4, p=[0.11, 0.09, 0.50, 0.30])
    if part == 0:
        return min(5, 1 + int(rng.exponential(1.6)))
    if part == 1:
        return int(rng.integers(6, 20))
    return int(rng.triangular(18, 26, 42) if part == 2 else 36 + 64.9 * rng.beta(1.1, 1.9))


_T = np.linspace(0, 1, 9)[:8]
_SPLINE = np.array(  # Catmull-Rom: 8 steps between the inner two of 4 points
    [2 * _T**2 - _T**3 - _T, 2 - 5 * _T**2 + 3 * _T**3, _T + 4 * _T**2 - 3 * _T**3, _T**3 - _T**2]
).T
_U = np.linspace(0, 1, 12)[:, None]
_ARC = np.hstack([(1 - _U) * (1 - 2 * _U), 4 * _U * (1 - _U), _U * (2 * _U - 1)])  # (12, 3)
_ARC_SLOPE = np.hstack([4 * _U - 3, 4 - 8 * _U, 4 * _U - 1])
_TAPER = np.sin(np.pi * (0.08 + 0.84 * _U)) / 2
_RING = np.exp(1j * np.linspace(0, 2 * np.pi, 37)[:36]).view(float).reshape(-1, 2)


class _Canvas:
    """A picture to draw on, with the pose of the head: rotation, scale and position."""

    def __init__(self, background, rng):
        self.image = Image.new("RGB", (SIZE * SCALE,) * 2, tuple(map(int, background)))
        self.opaque, self.glaze = ImageDraw.Draw(self.image), ImageDraw.Draw(self.image, "RGBA")
        angle, size = rng.normal(0, 0.06), rng.normal(0.96, 0.035) * SCALE
        cos, sin = np.cos(angle) * size, np.sin(angle) * size
        self.pose = np.array([[cos, sin], [-sin, cos]])
        self.middle = (SIZE / 2 + rng.normal(0, 2.5, 2) + (0, 2)) * SCALE

    def polygon(self, points, colour, alpha=1.0):
        corners = (points @ self.pose + self.middle).ravel().tolist()
        if alpha >= 1:
            self.opaque.polygon(corners, tuple(map(int, colour)))
        else:
            self.glaze.polygon(corners, (*map(int, colour), int(255 * alpha)))

    def blob(self, points, colour, alpha=1.0, mirror=False):
        """A smooth closed shape through ``points`` and, if ``mirror``, their mirror images."""
        points = np.asarray(points, dtype=float)
        if mirror:
            points = np.concatenate([points, points[::-1] * (-1, 1)])
        near = np.arange(len(points))[:, None] + (-1, 0, 1, 2)
        shape = _SPLINE / 2 @ points.take(near, axis=0, mode="wrap")  # (points, 8, 2)
        self.polygon(shape.reshape(-1, 2), colour, alpha)

    def oval(self, x, y, width, height, colour, alpha=1.0):
        self.polygon(_RING * (width, height) + (x, y), colour, alpha)

    def glow(self, x, y, width, height, colour, alpha):
        """A soft oval."""
        for part in (1, 0.75, 0.5):
            self.oval(x, y, width * part, height * part, colour, alpha / 3)

    def stroke(self, points, width, colour, alpha=1.0):
        """A curve through three ``points``, tapered at both ends."""
        points = np.asarray(points, dtype=float)
        line, slope = _ARC @ points, _ARC_SLOPE @ points
        across = slope[:, ::-1] * (-1, 1) * (width * _TAPER / np.hypot(*slope.T)[:, None])
        self.polygon(np.concatenate([line + across, (line - across)[::-1]]), colour, alpha)


def draw_face(face: DrawnFace) -> Image.Image:
    """Paint ``face``: 200 x 200, RGB.

    >>> draw_face(DrawnFace(np.random.default_rng(0))).size
    (200, 200)
    """
    rng = face.rng
    canvas = _Canvas(np.clip(rng.uniform(60, 225) + rng.normal(0, 18, 3), 20, 245), rng)
    parts = _hair_behind, _body_and_head, _wrinkles, _beard, _mouth_and_nose, _eyes, _hair_in_front
    for part in parts:
        part(canvas, face)
    if face.glasses:
        _glasses(canvas, face)
    # Reduced to the final size, with blur, directional light and camera grain.
    side = np.linspace(-1, 1, SIZE, dtype=np.float32)
    image = canvas.image.reduce(SCALE).filter(ImageFilter.BoxBlur(rng.uniform(0, 1.4)))
    right, low = face.light.tolist()
    light = rng.normal(0.97, 0.07) + right * side + low * side[:, None]
    grain = rng.standard_normal((SIZE, SIZE), dtype=np.float32) * rng.uniform(0, 5)
    pixels = np.asarray(image, dtype=np.float32).reshape(SIZE, -1)  # rows of RGBRGB...
    pixels = pixels * light.repeat(3, axis=1) + grain.repeat(3, axis=1)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8).reshape(SIZE, SIZE, 3))


def _hair_behind(canvas, face):
    if face.age < 3 or face.gender == 0 and face.bald > 0.4:
        return
    if face.style == "bun":
        canvas.oval(face.turn, -96, 30, 22, face.hair * 0.78)
    elif face.style == "curly" and face.gender:
        _curls(canvas, face.hair * 0.85, -0.2)
    elif face.style in ("long", "bob"):
        wide, low = (90, 120) if face.style == "long" else (92, 50)
        back = [(0, -106), (60, -96), (wide, -45), (wide, 10), (wide - 6, low), (30, low + 6)]
        canvas.blob(back, face.hair * 0.78, mirror=True)


def _body_and_head(canvas, face):
    x = face.mix(34, 42)
    shirt = [(x - 6, 104), (x + 40, 106), (150, 128), (150, 170)]
    canvas.blob(shirt, face.rng.choice(CLOTHES), mirror=True)
    canvas.blob([(x, 50), (x + 2, 92), (x - 8, 112)], face.shade(0.78), mirror=True)
    rng, half, ear = face.rng, face.outline, 16 + 5 * face.sag
    for side in (-1, 1):
        x, y = side * half[3][0], face.mix(12, -6)
        canvas.oval(x, y, 9, ear, face.shade(0.92))
        canvas.oval(x + side * 2, y, 4, ear - 6, face.shade(0.76))
    canvas.blob(half, face.shade(0.86), mirror=True)
    canvas.blob(half * 0.97 - (0, 1), face.skin, mirror=True)
    for side in (-1, 1):
        x, y = side * face.mix(50, 46) + face.turn, face.mix(34, 16)
        canvas.glow(x, y, 22, 17, face.skin * 0.6 + (90, 22, 18), face.mix(0.5, 0.35))
    for _ in range(face.spots):
        x, y = rng.choice([-1, 1]) * rng.uniform(24, 62), rng.uniform(-72, 40)
        canvas.oval(x, y, *rng.uniform(1.5, 3.5, 2), face.shade(0.7), 0.45)


def _wrinkles(canvas, face):
    """Eye bags, lines of forehead, brows, eyes (crow's feet), nose to mouth, mouth to chin."""
    (x, y), rng, turn = face.eyes, face.rng, (face.turn, 0)
    lines = [[(-34, y - up), (0, y - up - 3), (34, y - up)] for up in (24, 32, 40)]
    for s in (-1, 1):
        bag = [(s * (x - 14), y + 11), (s * x, y + 17), (s * (x + 14), y + 10)]
        canvas.stroke(np.add(bag, turn), 4, face.shade(0.74), 0.08 + 0.7 * face.sag)
        lines.append([(s * 5, y - 16), (s * 4, y - 9), (s * 6, y - 2)])
        for fan in (-8, 0, 8):
            out = s * (x + 18), s * (x + 24), s * (x + 30)
            lines.append(np.transpose([out, (y + fan / 2, y + fan, y + fan * 1.6)]))
        lines.append([(s * 17, y + 42), (s * 28, y + 52), (s * 34, y + 72)])
        lines.append([(s * 30, y + 80), (s * 32, y + 89), (s * 29, y + 98)])
    for line in lines:
        depth = face.wrinkles * rng.uniform(0.4, 1.3)
        if depth > 0.06:
            line = np.add(line, turn) + rng.normal(0, 1.2, (3, 2))
            canvas.stroke(line, 1.5 + 2.2 * depth, face.shade(0.64), 0.1 + 0.75 * depth)


def _beard(canvas, face):
    colour, x, half = face.hair * 0.92, face.turn, face.outline
    if face.beard in ("full", "stubble"):
        cheek = [(0, 60), (20, 57), (31, 38), (50, 24), (half[3][0] - 6, -8), *half[4:] * 0.98]
        canvas.blob(cheek, colour, 1 if face.beard == "full" else 0.25, mirror=True)
    if face.beard in ("full", "moustache"):
        lip = [(0, 26), (20, 29), (33, 45), (28, 49), (15, 41), (0, 38)]
        canvas.blob([*np.add(lip, (x, 0)), *np.add(lip[::-1], (-x, 0)) * (-1, 1)], colour)


def _mouth_and_nose(canvas, face):
    x, smile, thick = face.turn, face.smile, face.mix(7, 8) * (1 - 0.5 * face.sag)
    y, w = face.mix(46, 42), face.mix(17, 25) + 4 * smile
    paint = (198, 62, 78) if face.gender and face.age > 16 else (192, 98, 92)
    lips, corner, low = np.multiply(paint, 0.55) + face.skin * 0.36, y - 4 * smile, y + 5 * smile
    if smile > 0.62 and face.age > 2:
        canvas.blob([(x - w, corner), (x, y - 2), (x + w, corner), (x, low + thick + 6)], lips)
        w, corner = w - 6, corner + 2
        canvas.blob([(x - w, corner), (x, y + 1), (x + w, corner), (x, low + 6)], WHITE)
    else:
        bow = [(x - 7, y - thick * 0.7), (x, y - thick * 0.45), (x + 7, y - thick * 0.7)]
        canvas.blob([(x - w, corner), *bow, (x + w, corner), (x, low + thick)], lips)
        canvas.stroke([(x - w - 1, corner), (x, low), (x + w + 1, corner)], 2.2, face.shade(0.42))
    x, dark_side = face.turn * 1.6, 1 if face.light[0] < 0 else -1
    y, w = face.mix(24, 13), face.mix(9, 14) * (1 + 0.25 * face.sag)
    bridge = [(x + dark_side * 7, y - 38), (x + dark_side * 6, y - 20), (x + dark_side * w, y - 4)]
    canvas.stroke(bridge, 5, face.shade(0.78), face.mix(0, 0.55))
    canvas.glow(x, y - 5, w * 0.8, w * 0.7, face.shade(1.14), 0.5)
    canvas.stroke([(x - w, y - 2), (x, y + 5), (x + w, y - 2)], 4, face.shade(0.66))


def _eyes(canvas, face):
    for s in (-1, 1):
        x, y, droop = s * face.eyes[0] + face.turn, face.eyes[1], 4 * face.sag
        h = face.mix(12, 9.5) * (1 - 0.3 * face.sag) * (0.85 if face.ethnicity == 2 else 1)
        lid = [(x - s * 16, y + 2), (x - s * 5, y - h + 1), (x + s * 7, y - h + droop / 2)]
        canvas.blob([*lid, (x + s * 16, y + droop), (x, y + h * 0.9)], WHITE)
        r = min(face.mix(10, 8), h)
        for part, at, colour in ((1, 0, face.iris), (0.55, 0, INK), (0.26, 3, WHITE)):
            canvas.oval(x + at, y - at, r * part, r * part, colour)
        upper = np.array([(x - s * 17, y + 2), (x, y - h - 0.5), (x + s * 18, y + droop)])
        canvas.stroke(upper, 4.5 if face.gender and face.age > 12 else 3, INK, 0.9)
        canvas.stroke(upper - (0, 6), 3, face.shade(0.72), 0.25 + 0.5 * face.sag)
        y -= face.mix(21, 19) - 3 * face.sag
        brow = [(x - s * 18, y + 1), (x + s * 2, y - 5), (x + s * 20, y + 3)]
        canvas.stroke(brow, face.mix(4, (8, 6)[face.gender]), face.hair * 0.85, face.mix(0.3, 1))


def _hair_in_front(canvas, face):
    half, line, style, hair = face.outline, -62 - 40 * face.bald, face.style, face.hair
    edge, temple = half[3][0], (60 + 8 * face.bald, -44)
    cap = [(0, -106), (52, -97), (84, -50), (edge + 5, -12), (edge - 4, -12)]
    if face.age < 3:
        down = [half[0] - (0, 5), half[1] - (0, 4), (66, -52), (30, -64), (0, -60)]
        canvas.blob(down, hair, face.rng.uniform(0.15, 0.7), mirror=True)
    elif face.bald > 0.55:
        for s in (-1, 1):
            patch = [(edge - 7, -54), (edge + 3, -46), (edge + 6, -16), (edge - 3, -10)]
            canvas.blob(np.multiply(patch, (s, 1)), hair)
    elif style in ("side", "bun", "long"):
        part = -20 if face.turn < 0 else 24
        fall = [temple, (part + 20, line - 4), (part, line - 14), (-50, -52), (-60, -40)]
        canvas.blob([*cap, *fall, *np.multiply(cap[:0:-1], (-1, 1))], hair)
    elif style in ("fringe", "bob"):
        canvas.blob([*cap, (62, -44), (40, -52), (0, -54)], hair, mirror=True)
    elif style == "curly":
        canvas.blob([*cap[:3], temple, (38, line), (0, line)], hair, mirror=True)
        _curls(canvas, hair, 0.1)
    else:
        canvas.blob([*cap, temple, (46, line + 2), (0, line)], hair, mirror=True)


def _curls(canvas, colour, start):
    for angle in np.pi * np.linspace(start, 1 - start, 11):
        canvas.oval(76 * np.cos(angle), -28 - 68 * np.sin(angle), 18, 17, colour)


def _glasses(canvas, face):
    (x, y), turn = face.eyes, face.turn
    frame = face.rng.choice([(40, 40, 46), (120, 78, 50), (150, 150, 158)])
    outer = np.sign(_RING) * np.abs(_RING) ** 0.75 * (27, 22)  # between an oval and a rectangle
    rim = np.concatenate([outer, outer[:1], outer[:1] * 0.9, outer[::-1] * 0.9])
    for s in (-1, 1):
        canvas.polygon(outer + (s * x + turn, y + 2), WHITE, 0.14)
        canvas.polygon(rim + (s * x + turn, y + 2), frame)
        canvas.stroke([(s * 62 + turn, y), (s * 68, y - 1), (s * 76, y - 2)], 5, frame)
    canvas.stroke([(-14 + turn, y), (turn, y - 5), (14 + turn, y)], 5, frame)
