"""Addresses of the official checkpoints as data.

Source: the tables "Model Zoo" in README.md of tinyvision/DAMO-YOLO (Apache-2.0); for N, which later editions of that
file no longer list, the edition of March 2023. The authors publish neither sizes nor digests: `export.weights` pins
those on first use. Needs nothing but the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Kind = Literal["official", "official-distilled"]

KINDS: Final[tuple[Kind, ...]] = ("official", "official-distilled")
"""Trained by itself, and with a larger network as teacher (the rows with a star). The structure is the same."""

COCO_LABELS: Final = Path(__file__).with_name("coco.labels.txt")
"""The 80 class names of COCO in the order of the official checkpoints' classes."""

_STORE: Final = "https://idstcv.oss-cn-zhangjiakou.aliyuncs.com/DAMO-YOLO"
_NANO: Final = f"{_STORE}/release_model/ckpt/before_distill"
_GENERAL: Final = f"{_STORE}/release_model/clean_model_0317"


@dataclass(frozen=True, slots=True)
class Published:
    """One file that the authors published."""

    url: str
    map50_95: float
    """COCO val2017 mAP by the authors' table; not measured here."""

    @property
    def file_name(self) -> str:
        """The last part of the address."""
        return self.url.rpartition("/")[2]


CHECKPOINTS: Final[dict[str, dict[Kind, Published]]] = {
    "Ns": {"official": Published(f"{_NANO}/damoyolo_nano_small.pth", 0.323)},
    "Nm": {"official": Published(f"{_NANO}/damoyolo_nano_middle.pth", 0.382)},
    "N": {"official": Published(f"{_STORE}/clean_models/before_distill/damoyolo_tinynasL20_N_351.pth", 0.351)},
    "Nl": {"official": Published(f"{_NANO}/damoyolo_nano_large.pth", 0.405)},
    "T": {
        "official": Published(f"{_GENERAL}/damoyolo_tinynasL20_T_420.pth", 0.420),
        "official-distilled": Published(f"{_GENERAL}/damoyolo_tinynasL20_T_436.pth", 0.436),
    },
    "S": {
        "official": Published(f"{_GENERAL}/damoyolo_tinynasL25_S_460.pth", 0.460),
        "official-distilled": Published(f"{_GENERAL}/damoyolo_tinynasL25_S_477.pth", 0.477),
    },
    "M": {
        "official": Published(f"{_GENERAL}/damoyolo_tinynasL35_M_492.pth", 0.492),
        "official-distilled": Published(f"{_GENERAL}/damoyolo_tinynasL35_M_502.pth", 0.502),
    },
    "L": {
        "official": Published(f"{_GENERAL}/damoyolo_tinynasL45_L_508.pth", 0.508),
        "official-distilled": Published(f"{_GENERAL}/damoyolo_tinynasL45_L_519.pth", 0.519),
    },
}
"""Variant -> what there is of it."""
