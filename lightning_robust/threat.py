"""The threat model: which perturbations an adversary may make."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from lightning_robust.runtime.rng import SampleRNG
from lightning_robust.types import Radius, to_float
from lightning_robust.utils.radii import check_fits_box

Norm: TypeAlias = Literal["linf", "l2", "l1", "l0"]

Region: TypeAlias = tuple[int, int, int, int]
"""Pixels of an image: the rows from top to before bottom and the columns from left to before right."""

L1_SPARSITY = 0.01
"""Share of the coordinates that one l1 step moves (Tramèr & Boneh 2019, arXiv 1904.13000, SLIDE with q = 0.99)."""

L1_ROOM = 0.005
"""Share of the box's width that a pixel must have before it to take part in an l1 step. The projection moves pixels at
the wall a little away from it; without this margin they would take every following step, and the rest none."""

NEWTON_STEPS = 20
"""Newton steps towards the threshold of an l1 projection, of which a few usually do, before bisection takes over."""

BISECTIONS = 40
"""Bisections of the threshold's bracket at most, after which it is as narrow as rounding lets it be."""


@dataclass(frozen=True, init=False)
class Threat:
    """The set of images within `eps` of the clean one in a norm, inside the box [lower, upper].

    Every method takes images [b c h w] (any trailing shape works unless there is a region) and, where a radius stands,
    one number or one per sample [b].

    Args:
        norm: "linf", "l2", "l1" or "l0".
        eps: radius in units of pixels in [0, 1]; a fraction such as "8/255" is read as such. In l0 how many values of
            an image may change, a whole number: each channel of a pixel is a value.
        lower: least pixel value; -inf for no lower bound (in YAML `-.inf`).
        upper: greatest pixel value; inf for no upper bound (in YAML `.inf`).
        box_first: l2 only: clamp into the box before scaling into the ball, as TRADES does, not after.
        region: the only pixels that may change, as for a patch: [top, bottom, left, right] stands for the rows from top
            to before bottom and the columns from left to before right. By default all may.

    Raises:
        ValueError: for an unknown norm; for a radius that is negative, not finite, in linf larger than the box, or in
            l0 not whole; if lower is not below upper; or for a region without pixels. Methods raise it for images that
            a region does not lie in.

    Example:
        >>> import torch
        >>> threat = Threat("linf", "8/255")
        >>> str(threat)
        'linf 8/255'
        >>> x = torch.full((1, 1, 2, 2), 0.5)
        >>> threat.project(x + 0.1, x).sub(x).mul(255).round()
        tensor([[[[8., 8.],
                  [8., 8.]]]])
    """

    norm: Norm
    eps: float
    lower: float
    upper: float
    box_first: bool
    region: Region | None = None

    def __init__(
        self,
        norm: Norm = "linf",
        eps: float | str = "8/255",
        lower: float = 0.0,
        upper: float = 1.0,
        box_first: bool = False,
        region: Sequence[int] | None = None,
    ) -> None:
        eps = to_float(eps)
        if norm not in get_args(Norm):
            raise ValueError(f"Unknown norm {norm!r}: choose one of {', '.join(get_args(Norm))}.")
        if not 0 <= eps < math.inf:
            raise ValueError(f"The radius eps must be a finite number >= 0, got {eps}.")
        if not lower < upper:
            raise ValueError(f"The box must have lower < upper, got [{lower}, {upper}].")
        check_fits_box(norm, eps, float(lower), float(upper))
        box: dict[str, object] = {"lower": float(lower), "upper": float(upper), "box_first": box_first}
        if region is not None:  # so that files about threats without one do not speak of it
            box["region"] = _checked(region)
        for name, value in {"norm": norm, "eps": eps, **box}.items():
            object.__setattr__(self, name, value)

    @classmethod
    def parse(cls, text: str) -> "Threat":
        """Read a norm and a radius as papers write them, and the region if there is one.

        Raises:
            ValueError: for a text of another form.

        Example:
            >>> Threat.parse("l2 0.5").norm, str(Threat.parse("linf 8/255"))
            ('l2', 'linf 8/255')
            >>> Threat.parse("linf 1 in 4:12 x 0:8").region
            (4, 12, 0, 8)
        """
        ball, within, where = text.strip().partition(" in ")
        norm, _, eps = ball.partition(" ")
        if not eps:
            raise ValueError(f"A threat is a norm and a radius, such as 'linf 8/255' or 'l2 0.5', got {text!r}.")
        if norm not in get_args(Norm):
            raise ValueError(f"Unknown norm {norm!r} in {text!r}: choose one of {', '.join(get_args(Norm))}.")
        numbers = re.fullmatch(r"(\d+):(\d+) x (\d+):(\d+)", where.strip())
        if within and numbers is None:
            raise ValueError(f"A region is written like 'linf 1 in 4:12 x 0:8', got {text!r}.")
        region = None if numbers is None else cast(Region, tuple(map(int, numbers.groups())))
        return cls(cast(Norm, norm), eps.strip(), region=region)

    def __str__(self) -> str:
        """Return norm and radius as papers write them: "linf 8/255", "l2 0.5", "l1 12"; `parse` reads them."""
        ball = f"{self.norm} {radius_text(self.eps)}"
        if self.region is None:
            return ball
        top, bottom, left, right = self.region
        return f"{ball} in {top}:{bottom} x {left}:{right}"

    def without_box(self) -> "Threat":
        """Return the same ball, in which pixels may have any value.

        Example:
            >>> Threat().without_box().upper
            inf
        """
        return Threat(self.norm, self.eps, -math.inf, math.inf, region=self.region)

    def window(self, x: Float[Tensor, "b ..."]) -> Region:
        """Return the region (top, bottom, left, right) in which images [b c h w] may change: without one, all of it.

        Raises:
            ValueError: for input that is no image, or images that the region does not lie in.
        """
        if self.region is None:
            return 0, x.shape[-2], 0, x.shape[-1]
        _, bottom, _, right = self.region
        if x.dim() != 4 or bottom > x.shape[2] or right > x.shape[3]:
            raise ValueError(f"The region of the threat '{self}' does not lie in images of shape {tuple(x.shape[1:])}.")
        return self.region

    def restrict(self, x_adv: Float[Tensor, "b ..."], x: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """Return the points `x_adv` with the pixels outside the region as they are in x.

        Example:
            >>> threat = Threat(region=(0, 1, 0, 2))
            >>> threat.restrict(torch.ones(1, 1, 2, 3), torch.zeros(1, 1, 2, 3))
            tensor([[[[1., 1., 0.],
                      [0., 0., 0.]]]])
        """
        if self.region is None:
            return x_adv
        top, bottom, left, right = self.window(x)
        inside = torch.zeros(x.shape[2:], dtype=torch.bool, device=x.device)
        inside[top:bottom, left:right] = True
        return torch.where(inside, x_adv, x)

    def _only(self, delta: Tensor) -> Tensor:
        """Return shifts that are 0 outside the region."""
        return delta if self.region is None else self.restrict(delta, torch.zeros_like(delta))

    def _values(self, x: Tensor) -> int:
        """Return how many values of an image may change."""
        top, bottom, left, right = self.window(x) if self.region is not None else (0, 0, 0, 0)
        return x[0].numel() if self.region is None else x.shape[1] * (bottom - top) * (right - left)

    def random(self, x: Float[Tensor, "b ..."], rng: SampleRNG, eps: Radius | None = None) -> Float[Tensor, "b ..."]:
        """Return a point drawn uniformly from the ball around x, clamped into the box; in l0 with as many new values.

        Args:
            x: clean images [b ...].
            rng: random numbers of each sample.
            eps: radius instead of the threat's, one number or one per sample [b].
        """
        radius = self._radius(eps, x)
        if self.norm == "linf":
            return self._clamp(x + self._only(2 * rng.uniform(x) - 1) * radius)
        if self.norm == "l0":
            return self._some_values(x, rng, radius)
        d = self._values(x)
        if self.norm == "l2":  # a uniform direction, and a distance whose d-th power is uniform
            direction = self._only(rng.normal(x))
            unit = direction / per_image(direction.flatten(1).norm(dim=1), x)
        else:  # exponential variates over their sum are uniform on the l1 sphere's face; the sign picks the face
            size = self._only(-torch.log1p(-rng.uniform(x)))
            unit = size / per_image(size.flatten(1).sum(1), x) * (1 - 2 * (rng.uniform(x) < 0.5).to(x))
        length = rng.uniform(x.flatten(1)[:, :1]) ** (1 / d)
        return self._clamp(x + unit * per_image(length[:, 0], x) * radius)

    def _some_values(self, x: Tensor, rng: SampleRNG, radius: Tensor) -> Tensor:
        """Replace as many values as the radius allows, chosen at random, by values drawn uniformly from the box."""
        if not math.isfinite(self.upper - self.lower):
            raise ValueError("A random point in l0 takes its values from the box, which must be finite.")
        values = self.lower + (self.upper - self.lower) * rng.uniform(x)
        return x + _largest(self._only(values - x), self._only(rng.uniform(x)), radius)

    def steepest(
        self, grad: Float[Tensor, "b ..."], x_adv: Float[Tensor, "b ..."] | None = None
    ) -> Float[Tensor, "b ..."]:
        """Return the direction of unit norm along which a linear function with this gradient grows fastest.

        For l1 that is a single pixel, too slow on large images: the step is shared by the `L1_SPARSITY` largest, and
        pixels of `x_adv` that already stand at the box's wall, or all but, are passed over. A zero gradient gives a
        zero direction.

        Raises:
            ValueError: in l0, in which no direction is the steepest: a step may be of any length.
        """
        if self.norm == "l0":
            raise ValueError("There is no steepest direction in l0: take FMN, whose steps are those of l2.")
        grad = self._only(grad)
        if self.norm == "linf":
            return grad.sign()
        flat = grad.flatten(1)
        if self.norm == "l2":
            greatest = flat.abs().amax(1).clamp_min(torch.finfo(grad.dtype).tiny)
            unit = grad / per_image(greatest, grad)  # a confident net's gradient is so small that its squares underflow
            return unit / per_image(unit.flatten(1).norm(dim=1).clamp_min(1), grad)
        if x_adv is not None:
            room = torch.where(grad > 0, self.upper - x_adv, x_adv - self.lower).flatten(1)
            width = self.upper - self.lower
            flat = flat * (room > (L1_ROOM * width if width < math.inf else 0))
        top = flat.abs().topk(math.ceil(L1_SPARSITY * self._values(grad)), dim=1).indices
        return torch.zeros_like(flat).scatter(1, top, flat.gather(1, top).sign() / top.shape[1]).view_as(grad)

    def project(
        self, x_adv: Float[Tensor, "b ..."], x: Float[Tensor, "b ..."], eps: Radius | None = None
    ) -> Float[Tensor, "b ..."]:
        """Return the points `x_adv` moved back into the ball around x and into the box.

        linf, l1 and l0 give the nearest point of the intersection (for l1 see Croce & Hein 2021, arXiv 2103.01208, on
        why ball first and box second is not enough; for l0 Croce & Hein 2019, arXiv 1909.05040, section 2); l2 scales
        into the ball and then clamps, as all common l2 attacks do.
        """
        radius, x_adv = self._radius(eps, x), self.restrict(x_adv, x)
        if self.norm == "linf":
            return self._clamp(torch.minimum(torch.maximum(x_adv, x - radius), x + radius))
        delta = (self._clamp(x_adv) if self.box_first else x_adv) - x
        if self.norm == "l2":
            length = per_image(delta.flatten(1).norm(dim=1), x).clamp_min(torch.finfo(x.dtype).tiny)
            return self._clamp(x + delta * (radius / length).clamp_max(1))
        if self.norm == "l0":  # of equal values the first ones, so that no more than the radius are left
            inside = self._clamp(x_adv) - x
            return x + _largest(inside, delta.square() - (delta - inside).square(), radius)
        return self._clamp(x + _project_l1(delta, radius, self.lower - x, self.upper - x))

    def distance(self, x_adv: Float[Tensor, "b ..."], x: Float[Tensor, "b ..."]) -> Float[Tensor, "b"]:
        """Return the size [b] of each sample's perturbation in this norm."""
        return norms((x_adv - x).flatten(1), self.norm)

    def _radius(self, eps: Radius | None, x: Tensor) -> Tensor:
        return per_image(self.eps if eps is None else eps, x)

    def _clamp(self, x: Tensor) -> Tensor:
        return x.clamp(self.lower, self.upper)


def _checked(region: Sequence[int]) -> Region:
    """Return a region as a tuple, or raise if it has no pixels."""
    if len(region) == 4:
        top, bottom, left, right = map(int, region)
        if 0 <= top < bottom and 0 <= left < right:
            return top, bottom, left, right
    raise ValueError(
        f"A region is [top, bottom, left, right] with 0 <= top < bottom and 0 <= left < right, got {list(region)}."
    )


def norms(delta: Float[Tensor, "... d"], norm: Norm) -> Float[Tensor, "..."]:
    """Return the norms of vectors; `vector_norm` takes ten times as long for linf, five for l1 (CPU, torch 2.15)."""
    if norm == "linf":
        return delta.abs().amax(-1)
    if norm == "l0":
        return delta.count_nonzero(-1).to(delta)
    return delta.abs().sum(-1) if norm == "l1" else torch.linalg.vector_norm(delta, dim=-1)


def radius_text(eps: float) -> str:
    """Return a radius as papers write it: a short decimal where it is one, else a fraction of 255, else 4 digits.

    Example:
        >>> radius_text(8 / 255), radius_text(0.5), radius_text(1.9 / 255), radius_text(1 / 7)
        ('8/255', '0.5', '1.9/255', '0.1429')
    """
    levels = round(255 * eps, 2)
    if round(eps, 4) != eps and math.isclose(levels / 255, eps, rel_tol=1e-6):
        return f"{levels:g}/255"
    return f"{eps:.4g}"


def per_image(value: Radius, x: Tensor) -> Tensor:
    """Return one number, or one per sample [b], as a tensor that broadcasts against the images x [b ...]."""
    if not isinstance(value, Tensor):
        return torch.full((), value, dtype=x.dtype, device=x.device)  # a copy from the host would wait for a GPU
    return value.to(x).view(-1, *[1] * (x.dim() - 1)) if value.dim() else value.to(x)


def _largest(delta: Tensor, gain: Tensor, number: Tensor) -> Tensor:
    """Return the shifts delta [b ...] with all but as many values of each set to 0: those with the greatest gain."""
    order = gain.flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(1)
    return torch.where((rank < number.view(-1, 1)).view_as(delta), delta, 0)


def _project_l1(delta: Tensor, radius: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Return the nearest point to delta with l1 norm <= radius and lower <= point <= upper (lower <= 0 <= upper).

    That point is delta shrunk towards 0 by one threshold and clamped. Its norm is a falling, piecewise linear function
    of the threshold, so Newton's method finds the threshold in a few steps. They stay within a bracket, and bisection
    takes over where they leave it or do not end. A sample that has ended stays as it is while others go on.
    """
    height, room = delta.abs().flatten(1), torch.where(delta > 0, upper, -lower).flatten(1)
    size = radius.flatten().expand(len(delta))
    tolerance = 4 * torch.finfo(delta.dtype).eps * size
    low, high = torch.zeros_like(size), height.amax(1)
    threshold = torch.where(size > 0, low, high)
    zero, point = height.new_zeros(1, 1), torch.empty_like(height)
    for step in range(NEWTON_STEPS + BISECTIONS + 1):
        torch.sub(height, threshold[:, None], out=point)
        torch.clamp(point, zero, room, out=point)
        excess = point.sum(1) - size
        outside = excess > 0
        low, high = torch.where(outside, threshold, low), torch.where(outside, high, threshold)
        slope = (point > 0).bitwise_and_(point < room).sum(1, dtype=delta.dtype)
        after_low = torch.nextafter(low, high)
        newton = threshold + (excess + tolerance / 2) / slope
        newton = torch.where(outside, torch.maximum(newton, after_low), newton)  # where rounding would make it stay
        ended = (threshold == 0) | (excess >= -tolerance) | (after_low >= high) | ~(newton < threshold)
        ended = ended & ~outside
        if ended.all():
            break
        bracketed = (newton > low) & (newton < high)
        middle = torch.maximum((low + high) / 2, after_low)
        following = torch.where(bracketed, newton, middle) if step < NEWTON_STEPS else middle
        threshold = torch.where(ended, threshold, high if step == NEWTON_STEPS + BISECTIONS - 1 else following)
    return point.view_as(delta).copysign(delta)
