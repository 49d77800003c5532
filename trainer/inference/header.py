"""What a file of safetensors says of itself: Stability AI's model specification 1.0.0, and how its conditions are made.

The keys that begin with "modelspec." are shown by programs that list models; "condprep.condition" is ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trainer.models.kinds import all_kinds, kinds_of

VERSION = "1.0.0"
# bases with a transformer, which the specification has not
OTHERS = {"sd3": "stable-diffusion-3", "flux": "flux-1", "qwen-image": "qwen-image", "z-image": "z-image"}
AUTHORS = "https://github.com/lllyasviel/ControlNet"  # whose names the original ones are


@dataclass(frozen=True)
class Words:
    """What only a person can say of a model. Empty: nothing is said."""

    title: str = ""
    author: str = ""
    licence: str = ""


def header(
    training: Mapping[str, Any],
    condition: Mapping[str, Any],
    config: Mapping[str, Any],
    words: Words,
    *,
    original: bool,
    made: float,
    sha256: str,
) -> dict[str, str]:
    """The metadata of a file. made: seconds since 1970; sha256: of the tensors' bytes, in the file's order.

    training, condition, config: what training.json, condition.json and config.json hold. original: whether names are.
    """
    kind, predicted = all_kinds(kinds_of(condition)) or "unknown", training.get("prediction_type")
    side = training.get("resolution", condition["geometry"]["resolution"])  # the dataset may have another one
    said = {
        "sai_model_spec": VERSION,
        "architecture": architecture(training["family"], config, predicted),
        "implementation": AUTHORS if original else "diffusers",
        "title": words.title or f"ControlNet for {kind} conditions",
        "description": description(training),
        "usage_hint": f"takes {kind} maps",
        "date": datetime.fromtimestamp(int(made), UTC).isoformat(),
        "hash_sha256": f"0x{sha256}",
        "resolution": f"{side}x{side}",
        "author": words.author,
        "license": words.licence,
        "prediction_type": {"v_prediction": "v", "epsilon": "epsilon", "flow": "flow"}.get(str(predicted), ""),
    }
    return {
        "format": "pt",  # without which some programs do not take it for PyTorch's
        **{f"modelspec.{key}": value for key, value in said.items() if value},
        "condprep.condition": json.dumps(condition, sort_keys=True, ensure_ascii=False),
    }


def architecture(family: str, config: Mapping[str, Any], predicted: str | None) -> str:
    """The specification's name for the base, and what this is to it."""
    if family in OTHERS:
        base = OTHERS[family]
    elif family == "sdxl":
        base = "stable-diffusion-xl-v1-base"
    elif config["use_linear_projection"]:
        base = "stable-diffusion-v2-768-v" if predicted == "v_prediction" else "stable-diffusion-v2-512"
    else:
        base = "stable-diffusion-v1"
    return f"{base}/controlnet"


def description(training: Mapping[str, Any]) -> str:
    """Of a base on this machine, its folder's name alone."""
    base = training["model"]["base"]
    named = Path(base).resolve().name if Path(base).exists() or Path(base).is_absolute() else base
    return f"Trained on {named} for {training['updates']:,} updates of {training['batch']} pictures"
