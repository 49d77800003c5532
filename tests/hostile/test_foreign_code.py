"""Nobody is asked to run a stranger's code: a record loads condprep's own annotators, and others only where they are named."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.command import Command
from support.pictures import smooth

import condprep
import trainer
from condprep.annotators.recorded import as_begun, is_own
from condprep.dataset.layout import Layout
from condprep.errors import CondprepError, UsageError
from condprep.runtime.files import commit_json, read_json
from trainer.evaluation.reannotator import reannotator

CODE = """
from pathlib import Path

from transformers import PretrainedConfig

Path(__file__).with_name("ran").write_text("")
Path({marker!r}).write_text("")


class Config(PretrainedConfig):
    model_type = "stranger"
"""


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.fromarray(smooth(64, 64)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def dataset(tmp_path: Path, photo: Path) -> Path:
    """A dataset of one row whose map does not fit, so that --fix makes it again."""
    (tmp_path / "raw").mkdir()
    photo.rename(tmp_path / "raw" / "1.png")
    condprep.build(tmp_path / "raw", tmp_path / "ds", "canny", resolution=64)
    Image.fromarray(smooth(64, 64)).save(photo)
    return tmp_path / "ds"


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "code-ran"


@pytest.fixture
def stranger(tmp_path: Path, marker: Path) -> str:
    """The annotator `depth:FOLDER`, a model of transformers that brings its own code."""
    folder = tmp_path / "model"
    folder.mkdir()
    mapped = dict.fromkeys(("AutoConfig", "AutoModelForDepthEstimation", "AutoImageProcessor"), "code.Config")
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).write_text(json.dumps({"model_type": "stranger", "auto_map": mapped}))
    (folder / "code.py").write_text(CODE.format(marker=str(marker)))
    return f"depth:{folder}"


def claim(dataset: Path, name: str, **further: Any) -> None:
    """Let the dataset say that this annotator made its maps."""
    stored = Layout(dataset).private / "provenance.json"
    provenance = read_json(stored)
    annotator, _, variant = name.partition(":")
    provenance["annotators"][0] |= {"annotator": annotator, "variant": variant, "weights": {}} | further
    commit_json(stored, provenance)


def test_like_runs_no_code_and_asks_nobody(dataset: Path, photo: Path, stranger: str, marker: Path) -> None:
    """`annotate --like` of a dataset that names a model with code is refused with the remedy, whatever is typed."""
    claim(dataset, stranger)
    with pytest.raises(CondprepError, match=f"say trust_annotators {stranger}"):
        condprep.annotate([photo], like=dataset)
    assert not marker.exists()


def test_no_model_runs_code_even_where_it_is_trusted(dataset: Path, photo: Path, stranger: str, marker: Path) -> None:
    """Trust loads weights, not code: named by --trust-annotator or by --annotator, the code stays unread."""
    claim(dataset, stranger)
    for how in ({"like": dataset, "trust_annotators": [stranger]}, {"annotators": stranger}):
        with pytest.raises(CondprepError, match=r"needs code of its repository .* which condprep never runs"):
            condprep.annotate([photo], **how)  # type: ignore[arg-type]
    assert not marker.exists()


def test_trust_is_by_the_whole_name(dataset: Path, photo: Path, stranger: str) -> None:
    """A part of a trusted name, or another variant of it, is not trusted."""
    claim(dataset, stranger)
    for trust in ("depth", f"{stranger}/other", [stranger[:-1]], f"{stranger} "):
        with pytest.raises(CondprepError, match="trust_annotators"):
            condprep.annotate([photo], like=dataset, trust_annotators=trust)


def test_verify_and_curate_run_no_code(dataset: Path, stranger: str, marker: Path, tmp_path: Path) -> None:
    """`verify` notes why no map is made again; `curate --fix` copies what it may not repair; nothing was loaded."""
    claim(dataset, stranger)
    found = condprep.verify(dataset, checks=["alignment"])
    assert any(f"say --annotator {stranger}" in note for note in found.notes)
    spoil(dataset)
    with pytest.raises(CondprepError, match="trust_annotators"):
        condprep.curate(dataset, tmp_path / "out", fix=True)
    assert not marker.exists()


def spoil(dataset: Path) -> None:
    """Store a map of another size, which --fix makes again."""
    import io

    import pyarrow as pa

    (file,) = dataset.glob("train/*.arrow")
    with pa.memory_map(str(file)) as source:
        table = pa.ipc.open_stream(source).read_all()
    rows, small = table.to_pylist(), io.BytesIO()
    Image.new("1", (32, 48)).save(small, "PNG")
    rows[0]["conditioning_image"] = {"bytes": small.getvalue(), "path": None}
    with pa.ipc.new_stream(str(file), table.schema) as sink:
        sink.write_table(pa.Table.from_pylist(rows, table.schema))


def test_evaluation_runs_no_code(dataset: Path, stranger: str, marker: Path) -> None:
    """The trainer makes maps again by what a dataset names, under the same rule."""
    claim(dataset, stranger)
    with pytest.raises(CondprepError, match=f"evaluate` --annotator {stranger}"):
        reannotator(str(dataset), "conditioning_image", None, "cpu")
    assert not marker.exists()


def test_a_prepared_plan_chooses_no_annotator(tmp_path: Path, photo: Path, stranger: str, marker: Path) -> None:
    """An output folder in which a stranger has begun the build: what he recorded is not loaded in the user's name."""
    (tmp_path / "raw").mkdir()
    photo.rename(tmp_path / "raw" / "1.png")
    condprep.build(tmp_path / "raw", tmp_path / "ds", "canny", resolution=64)
    layout = Layout(tmp_path / "ds")
    plan = read_json(layout.private / "plan.json")
    annotator, _, variant = stranger.partition(":")
    plan["config"]["annotators"][0] |= {"annotator": annotator, "variant": variant}
    commit_json(layout.private / "plan.json", plan)
    layout.done.unlink()
    with pytest.raises(UsageError, match="begun with other settings"):
        condprep.build(tmp_path / "raw", tmp_path / "ds", "canny", resolution=64)
    assert not marker.exists()


def test_a_plan_says_only_which_listed_variant_it_was() -> None:
    """Of a name without variant the record may fill in a listed one, and nothing else."""
    assert as_begun("openpose", {"annotator": "openpose", "variant": "blaze"}) == "openpose:blaze"
    assert as_begun("openpose:cmu", {"annotator": "openpose", "variant": "blaze"}) == "openpose:cmu"
    for record in ({"annotator": "depth", "variant": "owner/model"}, {"variant": ["blaze"]}, {"variant": 3}, {}):
        assert as_begun("depth", record) == "depth"


@pytest.mark.parametrize(
    "name", ["depth:owner/model", "plugin", "aux:owner/model", "canny:evil", "", "midas", "../canny"]
)
def test_what_is_not_our_own_needs_trust(name: str) -> None:
    """Models by name, plug-ins, aliases and nonsense are not known; every listed variant is."""
    assert not is_own(name)
    assert is_own("canny:random")
    assert is_own("openpose")


@pytest.mark.parametrize(
    "geometry",
    [
        {"resolution": 40_000},
        {"resolution": 10**12, "fit": "pad"},
        {"resolution": 0},
        {"resolution": -512},
        {"resolution": "all"},
        {"resolution": float("inf")},
        {"fit": "stretch"},
        {"max_upscale": float("nan")},
        {"max_upscale": 0.5},
        {"further": 1},
    ],
)
def test_a_foreign_geometry_is_bounded(dataset: Path, photo: Path, geometry: dict[str, Any]) -> None:
    """What a build would not take is not taken from a provenance either: no picture of gigapixels."""
    stored = Layout(dataset).private / "provenance.json"
    provenance = read_json(stored)
    provenance["geometry"] |= geometry
    stored.write_text(json.dumps(provenance))
    with pytest.raises(UsageError, match="damaged"):
        condprep.annotate([photo], like=dataset)


@pytest.mark.parametrize(
    "record",
    [
        {"annotator": 3},
        {"annotator": ["canny"]},
        {"variant": {"a": 1}},
        {"params": [1]},
        {"params": "low"},
        {"weights": 7},
        {"column": None, "params": {"low": "x"}},
        {"params": {"\x1b[31m": 1}},
    ],
)
def test_records_of_odd_types_are_errors(dataset: Path, photo: Path, record: dict[str, Any]) -> None:
    """A record whose fields are of other types is an error that a user can read."""
    claim(dataset, "canny", **record)
    with pytest.raises(UsageError):
        condprep.annotate([photo], like=dataset)


def test_the_command_line_asks_nothing(
    command: Command, dataset: Path, photo: Path, stranger: str, marker: Path, tmp_path: Path
) -> None:
    """The command ends with the mistake's code and its remedy; `y` on its input is read by nobody."""
    claim(dataset, stranger)
    run = command("annotate", photo, "--like", dataset, "--out", tmp_path / "maps")
    assert run.code == 2
    assert "--trust-annotator" in run.err
    assert not marker.exists()


@pytest.mark.slow
def test_every_loader_of_foreign_classes_is_told_not_to_run_code() -> None:
    """Whoever lets transformers or diffusers choose the class says trust_remote_code=False, or hands the class to the door
    for models of others (`Pretrained`), which does; and nobody says True."""
    nodes = [node for package in (condprep, trainer) for node in _nodes(Path(package.__path__[0]))]
    calls = [node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name)]
    choosing = [call for call in calls if _chooses(call.func)]
    made = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "made"]
    at_the_door = [call for call in made if ast.unparse(call).startswith("made(self.name,")]
    assert choosing
    assert len(at_the_door) == 1
    for call in choosing + at_the_door:
        assert "trust_remote_code" in {word.arg for word in call.keywords} or any(
            word.arg is None and ast.unparse(word.value) == "how" for word in call.keywords
        ), ast.unparse(call)
    handed_over = [call for call in calls if any(map(_chooses, call.args))]
    assert handed_over
    for call in handed_over:
        assert ast.unparse(call.func) in ("named.load", "named.network"), ast.unparse(call)
    told = {ast.unparse(node) for node in nodes if isinstance(node, ast.keyword) and node.arg == "trust_remote_code"}
    assert "trust_remote_code=True" not in told


CHOOSING = ("Auto", "Processor.from_pretrained", "DiffusionPipeline.download", "DiffusionPipeline.from_pretrained")
WORDS = (*{name.partition(".")[0] for name in CHOOSING}, "made", "trust_remote_code")


def _chooses(named: ast.expr) -> bool:
    """Whether these words, `package.Class` or `Class.method`, are those of a class that chooses another."""
    if not isinstance(named, ast.Attribute) or any(isinstance(node, ast.Call) for node in ast.walk(named)):
        return False
    words = ast.unparse(named)
    return any(name in words for name in CHOOSING)


def _nodes(root: Path) -> list[ast.AST]:
    """Of the files in which one of the words occurs that are looked for; to parse all takes seconds."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(root.rglob("*.py"))]
    trees = [ast.parse(text) for text in texts if any(word in text for word in WORDS)]
    return [node for tree in trees for node in ast.walk(tree)]
