"""The adapter to controlnet_aux: what it offers, what it records, and that it is loaded late and quietly."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.aux_models import HOW, OWN, Checkpoints, detectors, load

import condprep
from condprep.annotators.controlnet_aux.detectors import DETECTORS, LEFT_OUT
from condprep.annotators.registry import load_annotator, specs
from condprep.errors import AnnotatorError
from condprep.weights.find import Weights


def test_the_table_fits_controlnet_aux() -> None:
    """Every detector exists there, and none of condprep's names is missing from the list of annotators."""
    for how in DETECTORS.values():
        assert hasattr(detectors(), how.cls)
    assert specs()["aux"].variants.keys() == DETECTORS.keys()


def test_every_detector_of_the_reference_is_offered_or_left_out_with_a_reason() -> None:
    """No detector of controlnet_aux is passed over in silence."""
    others = {
        **{"CannyDetector": "canny", "HEDdetector": "hed", "MidasDetector": "midas", "OpenposeDetector": "openpose"},
        "DWposeDetector": "dwpose",
    }
    there = {name for name in dir(detectors()) if name.lower().endswith("detector")}
    assert there == {how.cls for how in HOW.values()} | set(others)
    assert {*others.values(), *(OWN.keys() & specs().keys())} == set(LEFT_OUT)


@pytest.mark.parametrize("name", ["aux:dwpose", "dwpose"])
def test_what_is_left_out_says_why(name: str) -> None:
    """A detector that is known and left out is answered with the reason and what to use instead."""
    with pytest.raises(AnnotatorError, match=rf"there is no .*dwpose.*: {LEFT_OUT['dwpose']}"):
        load_annotator(name)


def test_a_variant_s_name_alone_leads_to_it() -> None:
    """`anyline` is no annotator, but `aux:anyline` is."""
    with pytest.raises(AnnotatorError, match="unknown annotator 'anyline'; did you mean aux:anyline"):
        load_annotator("anyline")


def test_licences_are_said_before_use() -> None:
    """Each variant's line names its licence; what came from restricted weights is recorded as not commercial."""
    for name, line in specs()["aux"].variants.items():
        assert DETECTORS[name].licence in line
    assert not DETECTORS["leres"].commercial
    assert not DETECTORS["leres++"].commercial
    assert DETECTORS["anyline"].commercial


def test_the_provenance_names_the_very_files(checkpoints: Checkpoints) -> None:
    """The sha256 of each file that was loaded, the version of controlnet_aux, licence and commercial use."""
    folder = checkpoints("anyline")
    made = load("anyline", folder).provenance
    digest = hashlib.sha256((folder / "MTEED.pth").read_bytes()).hexdigest()
    assert made["weights"] == {"MTEED.pth": digest}
    assert made["parameters"] == {"controlnet_aux": "0.0.10"}
    assert "CreativeML" in made["licence"]
    assert made["commercial"] is True


@pytest.mark.slow
def test_a_build_stores_and_repeats_it(raw: Path, tmp_path: Path, checkpoints: Checkpoints) -> None:
    """A build with two of them has both columns in the pictures' size, and --like makes the same maps again."""
    weights = Weights(checkpoints("pidinet_scribble"), offline=True, say=lambda _: None)
    ds = tmp_path / "ds"
    names = ("pidinet:scribble", "aux:shuffle")
    condprep.build(raw, ds, annotators=names, resolution=128, fit="bucket", image_format="png", weights=weights)
    from datasets import load_from_disk

    row = load_from_disk(str(ds))["train"][0]
    assert row["pidinet"].size == row["aux"].size == row["image"].size
    assert row["pidinet"].mode == "1"
    again = condprep.annotate([raw / row["source"]], like=ds, weights=weights)[0]
    for name in ("pidinet", "aux"):
        found, stored = (np.asarray(one.convert("RGB")) for one in (again.maps[name], row[name]))
        assert np.array_equal(found, stored), name


def test_a_variant_must_be_named() -> None:
    """`aux` alone is no annotator; the error lists what is."""
    with pytest.raises(AnnotatorError, match="'aux' needs a variant: aux:lineart_standard, aux:anyline"):
        load_annotator("aux")


@pytest.mark.slow
def test_it_is_loaded_late_and_quietly() -> None:
    """controlnet_aux is imported by such an annotator alone, and its page of warnings does not reach the user."""
    code = (
        "import sys, condprep; condprep.load_annotator('canny'); assert 'controlnet_aux' not in sys.modules; "
        "condprep.load_annotator('aux:shuffle'); assert 'controlnet_aux' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
