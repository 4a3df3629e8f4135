"""Draws a walking person: limbs, clothes, hair and bags as polygons, drawn at triple size and reduced.

Screen coordinates: x to the right, y down. The yaw is 0 when the person faces the camera and a quarter turn
when walking to the right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from common.datasets.synthetic.people import Colour, Person, shade

HEIGHT, WIDTH = 128, 64
SCALE = 3  # drawn at SCALE times the final size
SWING = 0.42  # half the angle between the legs at full stride, radians

Point = tuple[float, float]


@dataclass(frozen=True)
class Pose:
    """A person's pose in a box: yaw and walking phase in radians, size and position relative to the box."""

    yaw: float
    phase: float
    size: float
    dx: float  # offset of the body's axis from the middle, in box widths
    dy: float  # offset of the feet from their usual position, in box heights
    side_light: float  # -1 from the left .. 1 from the right


def draw_figure(person: Person, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Draws the person alone: premultiplied colour (128, 64, 3) and coverage (128, 64), float32 in 0..1."""
    figure = _Figure(person, pose)
    figure.draw_all()
    pixels = np.asarray(figure.canvas.reduce(SCALE), np.float32) / 255
    colour, coverage = pixels[..., :3], pixels[..., 3]
    return np.clip(colour * _relief(coverage, pose.side_light)[..., None], 0, 1), coverage


def _relief(coverage: np.ndarray, side_light: float) -> np.ndarray:
    """Returns shading that makes the drawing look round: darker edges, lighter on the side of the light."""
    blurred = Image.fromarray((coverage * 255).astype(np.uint8)).filter(ImageFilter.BoxBlur(2))
    soft = np.asarray(blurred, np.float32) / 255
    slope = np.zeros_like(soft)
    slope[:, 1:-1] = soft[:, 2:] - soft[:, :-2]
    return (0.72 + 0.34 * soft) * (1 - 0.7 * side_light * slope)


class _Figure:
    """The canvas, and the body's dimensions in its pixels."""

    def __init__(self, person: Person, pose: Pose):
        # the fourth channel of RGBX is the coverage; reduced like a colour, it premultiplies the colours
        self.canvas = Image.new("RGBX", (WIDTH * SCALE, HEIGHT * SCALE))
        self.draw = ImageDraw.Draw(self.canvas)
        self.person, self.pose = person, pose
        self.cos, self.sin = math.cos(pose.yaw), math.sin(pose.yaw)
        self.front = self.cos > 0
        # the side of the body that is closer to the camera: +1 the person's left
        self.near = -1 if self.sin > 0 else 1

        tall = HEIGHT * SCALE * 0.94 * person.height * pose.size
        self.tall = tall
        self.cx = WIDTH * SCALE * (0.5 + pose.dx)
        self.foot = HEIGHT * SCALE * (0.97 + pose.dy)
        self.head = tall * 0.062
        self.neck = self.foot - tall + self.head * 2.05
        self.leg = tall * person.leg_ratio
        self.hip = self.foot - self.leg - 0.008 * tall * abs(math.sin(pose.phase))
        self.arm = (self.hip - self.neck) * 0.98
        frontal, lateral = abs(self.cos), abs(self.sin)
        self.shoulder = tall * 0.112 * person.build * person.shoulders * (frontal + 0.55 * lateral)
        self.pelvis = tall * 0.083 * person.build * (frontal + 0.72 * lateral)
        self.thigh = tall * 0.040 * (0.6 + 0.4 * person.build)
        self.wrist = tall * 0.026 * (0.6 + 0.4 * person.build) * (1.2 if person.coat else 1.0)

    def draw_all(self) -> None:
        """Draws all parts from far to near."""
        dim = 0.78 if abs(self.sin) > 0.3 else 0.94
        self.draw_leg(-self.near, dim)
        self.draw_arm(-self.near, dim)
        if self.person.backpack and self.front:
            self.draw_backpack_behind(self.person.backpack)
        self.draw_leg(self.near, 1.0)
        self.draw_torso()
        if self.person.backpack and not self.front:
            self.draw_backpack(self.person.backpack)
        self.draw_arm(self.near, 0.93)
        self.draw_head()

    # shapes

    def polygon(self, points: list[Point], colour: Colour) -> None:
        self.draw.polygon(points, fill=(*colour, 255))

    def ellipse(self, centre: Point, radii: Point, colour: Colour) -> None:
        (x, y), (rx, ry) = centre, radii
        self.draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=(*colour, 255))

    def line(self, points: list[Point], width: float, colour: Colour) -> None:
        self.draw.line(points, fill=(*colour, 255), width=max(1, round(width)))

    def capsule(self, start: Point, end: Point, radii: Point, colour: Colour) -> None:
        """Draws a limb from `start` to `end`, with these radii at its ends."""
        (x0, y0), (x1, y1), (r0, r1) = start, end, radii
        length = math.hypot(x1 - x0, y1 - y0) + 1e-6
        nx, ny = (y0 - y1) / length, (x1 - x0) / length
        left = [(x0 + nx * r0, y0 + ny * r0), (x1 + nx * r1, y1 + ny * r1)]
        right = [(x1 - nx * r1, y1 - ny * r1), (x0 - nx * r0, y0 - ny * r0)]
        self.polygon(left + right, colour)
        self.ellipse(start, (r0, r0), colour)
        self.ellipse(end, (r1, r1), colour)

    # parts of the body

    def draw_leg(self, side: int, dim: float) -> None:
        person, thigh = self.person, self.thigh
        phase = self.pose.phase + (0 if side > 0 else math.pi)
        swing = SWING * math.sin(phase)
        bend = 0.55 * max(0.0, -math.sin(phase + 0.6))
        hip = (self.cx + side * self.cos * self.pelvis * 0.48, self.hip)
        knee = (
            hip[0] + self.sin * math.sin(swing) * self.leg * 0.5,
            hip[1] + math.cos(swing) * self.leg * 0.5,
        )
        lift = max(0.0, -math.sin(swing)) * abs(self.cos) * self.leg * 0.06
        ankle = (
            knee[0] + self.sin * math.sin(swing - bend) * self.leg * 0.46,
            knee[1] + math.cos(swing - bend) * self.leg * 0.46 - lift,
        )

        cloth, skin, shoes = shade(person.bottom, dim), shade(person.skin, dim), shade(person.shoes, dim)
        if person.legwear == "trousers":
            self.capsule(knee, ankle, (thigh * 0.85, thigh * 0.62), cloth)
            self.capsule(hip, knee, (thigh * 1.15, thigh * 0.88), cloth)
            if person.side_stripe:
                seam = side * self.cos * thigh
                points = [
                    (hip[0] + seam, hip[1]),
                    (knee[0] + 0.7 * seam, knee[1]),
                    (ankle[0] + 0.4 * seam, ankle[1]),
                ]
                self.line(points, SCALE, shade(person.side_stripe, dim))
        else:
            self.capsule(knee, ankle, (thigh * 0.66, thigh * 0.45), skin)
            self.capsule(hip, knee, (thigh, thigh * 0.7), skin)
            if person.legwear == "shorts":
                self.capsule(hip, _between(hip, knee, 0.85), (thigh * 1.15, thigh * 1.02), cloth)
        if person.boots:
            self.capsule(_between(ankle, knee, 0.5), ankle, (thigh * 0.72, thigh * 0.68), shoes)
        toe = (ankle[0] + self.sin * thigh * 1.35, ankle[1] + thigh * (0.38 if self.front else 0.2))
        self.capsule((ankle[0], ankle[1] + thigh * 0.2), toe, (thigh * 0.55, thigh * 0.48), shoes)

    def draw_arm(self, side: int, dim: float) -> None:
        person, wrist = self.person, self.wrist
        swing = -0.85 * SWING * math.sin(self.pose.phase + (0 if side > 0 else math.pi))
        out = side * self.cos
        shoulder = (self.cx + out * self.shoulder * 0.95, self.neck + self.arm * 0.11)
        elbow = (
            shoulder[0] + self.sin * math.sin(swing) * self.arm * 0.5 + out * self.arm * 0.07,
            shoulder[1] + math.cos(swing) * self.arm * 0.48,
        )
        hand = (
            elbow[0] + self.sin * math.sin(swing + 0.35) * self.arm * 0.45,
            elbow[1] + math.cos(swing + 0.35 * abs(self.sin)) * self.arm * 0.45,
        )

        cloth = shade(person.accent if person.pattern == "two_tone" else person.top, dim)
        skin = shade(person.skin, dim)
        self.ellipse((hand[0], hand[1] + wrist * 0.2), (wrist * 0.8, wrist), skin)
        if person.long_sleeves:
            self.capsule(elbow, hand, (wrist * 0.95, wrist * 0.75), cloth)
            self.capsule(shoulder, elbow, (wrist * 1.2, wrist), cloth)
        else:
            self.capsule(elbow, hand, (wrist * 0.85, wrist * 0.65), skin)
            self.capsule(shoulder, elbow, (wrist * 0.95, wrist * 0.85), skin)
            self.capsule(shoulder, _between(shoulder, elbow, 0.6), (wrist * 1.3, wrist * 1.2), cloth)
        if person.handbag and side == person.handbag_side:
            self.draw_handbag(hand, shade(person.handbag, dim))

    def draw_handbag(self, hand: Point, colour: Colour) -> None:
        size = self.tall * 0.05 * self.person.handbag_size
        x, y = hand
        half = size * (0.2 + 0.6 * abs(self.cos) + 1.0 * abs(self.sin))
        handle = [(x - size * 0.5, y + size * 0.5), (x, y), (x + size * 0.5, y + size * 0.5)]
        self.line(handle, SCALE, shade(colour, 0.6))
        upper, lower = y + size * 0.4, y + size * 2
        bag = [(x - half, upper), (x + half, upper), (x + half * 0.9, lower), (x - half * 0.9, lower)]
        self.polygon(bag, colour)

    def draw_torso(self) -> None:
        person, hem = self.person, self.hip + self.tall * (0.16 if self.person.coat else 0.03)
        self.draw_hips()
        half = [(0.45, self.neck), (0.98, self.neck + self.arm * 0.07), (0.93, self.neck + self.arm * 0.4)]
        right = [(self.cx + w * self.shoulder, y) for w, y in half] + [(self.cx + self.pelvis * 1.1, hem)]
        left = [(2 * self.cx - x, y) for x, y in reversed(right)]
        shape = Image.new("L", self.canvas.size)
        ImageDraw.Draw(shape).polygon(right + left, fill=255)
        box = shape.getbbox()
        if box:
            self.canvas.paste(self.draw_cloth(hem).crop(box), box, shape.crop(box))
        if person.backpack and self.front:
            for side in (-1, 1):
                x = self.cx + side * self.shoulder * 0.55 * abs(self.cos) + self.sin * self.shoulder * 0.2
                strap = [(x, self.neck + self.arm * 0.02), (x, self.neck + self.arm * 0.5)]
                self.line(strap, SCALE * 1.8, shade(person.backpack, 0.8))

    def draw_hips(self) -> None:
        person, cx, pelvis = self.person, self.cx, self.pelvis
        if person.legwear == "skirt":
            seam, flare = self.hip + self.leg * 0.42, pelvis * (1.35 + 0.15 * abs(math.sin(self.pose.phase)))
            top = self.hip - self.tall * 0.06
            skirt = [(cx - pelvis, top), (cx + pelvis, top), (cx + flare, seam), (cx - flare, seam)]
            self.polygon(skirt, person.bottom)
        else:
            box = (cx - pelvis, self.hip - self.tall * 0.04, cx + pelvis, self.hip + self.tall * 0.04)
            self.draw.rectangle(box, fill=(*person.bottom, 255))

    def draw_cloth(self, hem: float) -> Image.Image:
        """Draws the top's cloth over the whole canvas; the torso's outline is cut from it."""
        person, frontal = self.person, abs(self.cos)
        cloth = Image.new("RGBX", self.canvas.size, (*person.top, 255))
        draw = ImageDraw.Draw(cloth)
        width, height = self.canvas.size
        accent, period = (*person.accent, 255), person.period * self.tall / HEIGHT
        if person.pattern in ("hoops", "check"):
            for row in range(int((hem - self.neck) / period) + 1):
                y = self.neck + row * period
                draw.rectangle((0, y, width, y + period * 0.45), fill=accent)
        if person.pattern in ("stripes", "check"):
            step = max(period * (0.2 + 0.8 * frontal), SCALE)
            mixed = (*((np.array(person.accent) + person.top) // 2).tolist(), 255)
            colour = accent if person.pattern == "stripes" else mixed
            count = int(self.shoulder / step) + 2
            for column in range(-count, count):
                x = self.cx + column * step
                draw.rectangle((x, 0, x + step * 0.4, height), fill=colour)
        if person.pattern == "two_tone":
            draw.rectangle((0, self.neck - self.arm, width, self.neck + self.arm * 0.4), fill=accent)
        if person.pattern == "logo" and self.front and frontal > 0.3:
            x, half = self.cx + self.sin * self.shoulder * 0.3, self.shoulder * 0.5 * frontal
            box = (x - half, self.neck + self.arm * 0.25, x + half, self.neck + self.arm * 0.5)
            draw.rectangle(box, fill=accent)
        if person.open_coat and self.front:
            x, half = self.cx + self.sin * self.shoulder * 0.5, self.shoulder * 0.28 * frontal
            neck = self.neck
            opening = [(x - half * 0.6, neck), (x + half * 0.6, neck), (x + half, hem), (x - half, hem)]
            draw.polygon(opening, fill=(*person.shirt, 255))
        return cloth

    def draw_backpack(self, colour: Colour) -> None:
        """Draws the backpack seen from behind or from the side."""
        half = self.shoulder * (0.72 * abs(self.cos) + 0.45 * abs(self.sin))
        x = self.cx - self.sin * self.shoulder * 0.95
        top, bottom = self.neck + self.arm * 0.12, self.neck + self.arm * 0.78
        box = (x - half, top, x + half, bottom)
        self.draw.rounded_rectangle(box, radius=half * 0.4, fill=(*colour, 255))
        pocket = (x - half * 0.7, self.neck + self.arm * 0.5, x + half * 0.7, self.neck + self.arm * 0.7)
        self.draw.rectangle(pocket, fill=(*shade(colour, 0.75), 255))

    def draw_backpack_behind(self, colour: Colour) -> None:
        """Draws what is visible of the backpack beside the body when the person faces the camera."""
        x, radius = self.cx - self.sin * self.shoulder, self.shoulder * (0.35 + 0.45 * abs(self.sin))
        top, bottom = (x, self.neck + self.arm * 0.25), (x, self.neck + self.arm * 0.68)
        self.capsule(top, bottom, (radius, radius), shade(colour, 0.85))

    def draw_head(self) -> None:
        person, head, sin = self.person, self.head, self.sin
        x, y = self.cx + sin * head * 0.25, self.foot - self.tall + head * 1.05
        if person.hair_style == "long" and self.front:
            self.draw_long_hair(x, y)
        chin, collar = (self.cx, self.neck - head * 0.4), (self.cx, self.neck + head * 0.15)
        self.capsule(chin, collar, (head * 0.42, head * 0.48), shade(person.skin, 0.85))
        if person.hair_style == "long" and not self.front:
            self.draw_long_hair(x, y)
        if person.hair_style == "bun":
            radius = head * 0.42
            self.ellipse((x - sin * head * 1.0, y - head * 0.6), (radius, radius), shade(person.hair, 0.9))
        self.ellipse((x, y), (head * 0.84, head), person.skin if person.hair_style == "bald" else person.hair)
        turn = (self.cos + 0.25) / 1.25  # 1 full face, 0 just out of sight
        if turn > 0:
            width = head * (0.35 + 0.38 * turn)
            self.ellipse((x + sin * head * 0.32, y + head * 0.18), (width, head * 0.76), person.skin)
        if person.hat:
            self.draw_hat(x, y, person.hat)

    def draw_long_hair(self, x: float, y: float) -> None:
        head, behind = self.head, -self.sin * self.head
        top, bottom = (x + behind * 0.3, y), (x + behind * 0.45, y + head * 1.3)
        self.capsule(top, bottom, (head * 0.92, head * 0.8), self.person.hair)

    def draw_hat(self, x: float, y: float, colour: Colour) -> None:
        head, sin = self.head, self.sin
        box = (x - head, y - head * 1.2, x + head, y + head * 0.8)
        self.draw.pieslice(box, 180, 360, fill=(*colour, 255))
        if self.cos > -0.25:
            peak, half = x + sin * head, head * 0.8 * self.cos
            brim = [
                (peak - half, y - head * 0.25),
                (peak + half, y - head * 0.25),
                (peak + sin * head * 0.8, y - head * 0.08),
            ]
            self.polygon(brim, shade(colour, 0.8))


def _between(start: Point, end: Point, fraction: float) -> Point:
    return start[0] + (end[0] - start[0]) * fraction, start[1] + (end[1] - start[1]) * fraction
