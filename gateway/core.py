"""What both faces stand on: one object that the composition root builds and hands to each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.access import Access
    from gateway.detector import Detector, Predictor
    from gateway.hold import Hold
    from gateway.image import ImageLimits
    from gateway.lifecycle import Lifecycle
    from gateway.memory import ByteBudget
    from gateway.metrics import Metrics
    from gateway.shadow import Shadowing
    from gateway.versions import Versions


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """The gateway less its faces.

    Attributes:
        detector: finds objects in an image.
        predictor: knows who serves what, and shows each caller what it may see.
        versions: which version answers whom.
        shadowing: compares candidates with what is served.
        hold: keeps what comes while nothing is served.
        lifecycle: whether this process is ready.
        metrics: the process's instruments.
        limits: what one image may cost.
        memory: what all requests together may hold.
        timeout_seconds: deadline of a request that names none.
        access: the keys that are asked for; None to serve everyone.
    """

    detector: Detector
    predictor: Predictor
    versions: Versions
    shadowing: Shadowing
    hold: Hold
    lifecycle: Lifecycle
    metrics: Metrics
    limits: ImageLimits
    memory: ByteBudget
    timeout_seconds: float
    access: Access | None = None
