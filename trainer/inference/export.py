"""The result: a ControlNet folder of diffusers, with all that is needed to use it and to know where it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from condprep.annotators.kinds import kind_of_annotator
from condprep.annotators.protocol import full_name
from condprep.dataset.records import UNKNOWN, annotator, primary_column
from condprep.dataset.remote import here
from condprep.runtime.files import commit, commit_json, commit_same, commit_text, read_json
from condprep.runtime.own import make_folder
from condprep.runtime.text import markdown
from trainer.errors import MachineError, TrainingStopped, first_line
from trainer.models.families import FAMILIES
from trainer.models.kinds import kinds_of
from trainer.models.parts import buffers
from trainer.recipe.layout import (
    CARD,
    CHECKPOINTS,
    CONDITION,
    CONFIG,
    EMA,
    LOGS,
    RAW,
    RECIPE,
    SAMPLES,
    TRAINING,
    WEIGHTS,
)

if TYPE_CHECKING:
    from diffusers import ControlNetModel
    from torch import Tensor

PRIVATE = [f"{CHECKPOINTS}/*", f"{LOGS}/*", "*.partial", ".*"]  # is not pushed


def condition_record(
    dataset: str | Path, columns: Sequence[str], kinds: Sequence[str | None], resolution: int
) -> dict[str, Any]:
    """What the conditions of a column are, and how condprep made them; of several columns each one's `conditions`.

    kinds: what the maps look like, where the dataset does not say. `annotators` is empty, and `geometry` that of the
    training, where the dataset was not made by condprep. `condprep annotate --like` reads this.
    """
    each = [_record(dataset, column, kind, resolution) for column, kind in zip(columns, kinds, strict=True)]
    if len(each) == 1:
        return each[0]
    made = [one for one in each if one["annotators"]]
    return {
        "kind": None,
        "conditions": [{"kind": one["kind"], "column": one["column"]} for one in each],
        "annotators": [annotator for one in made for annotator in one["annotators"]],
        "geometry": (made or each)[0]["geometry"],
    }


def _record(dataset: str | Path, column: str, kind: str | None, resolution: int) -> dict[str, Any]:
    made = made_by(dataset, column)
    if made is None:
        geometry = {"resolution": resolution, "fit": "bucket", "max_upscale": 2.0}
        return {"kind": kind, "column": column, "annotators": [], "geometry": geometry}
    record, geometry = made
    known = kind_of_annotator(record["annotator"], record["variant"]) or kind
    return {"kind": known, "column": column, "annotators": [record], "geometry": geometry}


def unsaid(dataset: str | Path, condition: Mapping[str, Any]) -> list[str]:
    """What the result will not be able to say, because the dataset does not. condition: as `condition_record` gives it."""
    if (
        len(condition["annotators"]) < len(kinds_of(condition))
        and (here(dataset) / ".condprep" / "provenance.json").exists()
    ):
        return [f"the provenance of {dataset} cannot be read: the result will not say how to make its conditions"]
    return [
        f"the provenance of {dataset} names no licence of {full_name(one['annotator'], one['variant'])}: the model card"
        " will say that it is unknown"
        for one in condition["annotators"]
        if one["licence"] == UNKNOWN
    ]


def made_by(dataset: str | Path, column: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The annotator and the geometry that condprep recorded for a column; None where it did not make it."""
    records = here(dataset) / ".condprep"
    try:
        provenance = read_json(records / "provenance.json")
        made = {one["column"]: one for one in provenance["annotators"]}
        if column not in made:  # conditioning_image: the map of the primary annotator, or of the only one
            options = read_json(records / "plan.json")["config"]["requested"]["options"]
            column = primary_column(provenance, options) or ""
        return annotator(made[column]), dict(provenance["geometry"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None


def save_controlnet(folder: Path, controlnet: ControlNetModel, weights: Iterable[Tensor]) -> None:
    """config.json and the weights as they are, each complete or not there. weights: in the parameters' order."""
    from safetensors.torch import save_file

    make_folder(folder)
    names = [name for name, _ in controlnet.named_parameters()]
    state = {name: tensor.cpu() for name, tensor in buffers(controlnet).items()}
    state |= {name: weight.detach().cpu().contiguous() for name, weight in zip(names, weights)}
    commit(folder / WEIGHTS, lambda path: save_file(state, path, metadata={"format": "pt"}), renames=True)
    commit_text(folder / CONFIG, str(controlnet.to_json_string()))


def save_result(
    folder: Path,
    controlnet: ControlNetModel,
    raw: Iterable[Tensor],
    average: Iterable[Tensor] | None,
    training: Mapping[str, Any],
    condition: Mapping[str, Any],
) -> None:
    """All of the layout but the recipe, which is there since the run began. training: what TRAINING holds.

    Raises TrainingStopped where it cannot be written; the same run, started again, has nothing to do but this.
    """
    with _written(folder):
        save_controlnet(folder / RAW, controlnet, raw)
        if average is not None:
            save_controlnet(folder / EMA, controlnet, average)
        best = folder / (RAW if average is None else EMA)
        for name in (WEIGHTS, CONFIG):
            commit_same(folder / name, best / name)
        commit_json(folder / CONDITION, condition)
        commit_json(folder / TRAINING, training)
        commit_text(folder / CARD, card(folder, training, condition))


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    """What a full disk is to Python, torch and safetensors, in words."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        raise TrainingStopped(
            f"{folder} is trained, but the result could not be written: {first_line(error)}. Make room; the same command"
            " writes it, without training again"
        ) from error


def card(folder: Path, training: Mapping[str, Any], condition: Mapping[str, Any]) -> str:
    """The model card: YAML header, how to use it, what it was trained on, how well it follows, the whole recipe."""
    from huggingface_hub import ModelCardData

    model, kinds = training["model"], [kind or "unknown" for kind in kinds_of(condition)]
    data = ModelCardData(
        base_model=None if Path(model["base"]).exists() else model["base"],
        library_name="diffusers",
        pipeline_tag="image-to-image",
        tags=["controlnet", "diffusers-training", "condprep", *kinds],
    )
    lines = [
        *("---", str(data.to_yaml()), "---", ""),
        f"# ControlNet for {', '.join(kinds)} conditions",
        "",
        f"Trained on {model['base']} for {training['updates']:,} updates of {training['batch']} pictures.",
        "",
        *_preview(folder),
        *_figures(training["metrics"]),
        *_usage(training["family"], condition),
        *_origin(training, condition),
        *("## Recipe", "", "```toml", (folder / RECIPE).read_text(encoding="utf-8").strip(), "```", ""),
    ]
    return "\n".join(lines)


def _preview(folder: Path) -> list[str]:
    newest = max((folder / SAMPLES).glob("*.png"), default=None)
    if newest is None:
        return []
    return [f"![condition, generated, original]({newest.relative_to(folder).as_posix()})", ""]


def _figures(metrics: Mapping[str, float]) -> list[str]:
    if "condition_gap" not in metrics:
        return []
    gap, loss = metrics["condition_gap"], metrics["val_loss"]
    said = f"with another row's condition it is {gap:.2f} times as large, a mean over bands of timesteps"
    return [f"Held-out loss {loss:.4f}; {said}.", ""]


def _usage(family: str, condition: Mapping[str, Any]) -> list[str]:
    named, kinds = FAMILIES[family], kinds_of(condition)
    given, further = 'load_image("maps/photo.png")', list[str]()
    if len(kinds) > 1 and named.several:
        named, of = named.several, condition["conditions"][:2]
        given = ", ".join(f'"{one["kind"]}": load_image("maps/photo.{one["column"]}.png")' for one in of)
        given = f"{{{given}}}"
        further = ["It takes maps of one of its kinds, or several together.", *named.kind.usage(kinds), ""]
    make = ["```sh", "condprep annotate photo.jpg --like path/to/this/folder --out maps/", "```", ""]
    return [
        *("## Use", "", *(make if condition["annotators"] else [])),
        *("```python", "from diffusers.utils import load_image", "from trainer import load_pipeline", ""),
        'pipeline = load_pipeline("path/to/this/folder")',
        f'picture = pipeline("a prompt", {named.condition}={given}).images[0]',
        *("```", "", *further),
        *(f"The folder is a ControlNet of diffusers: `{named.controlnet}.from_pretrained` loads it.", ""),
    ]


def _origin(training: Mapping[str, Any], condition: Mapping[str, Any]) -> list[str]:
    rows = f"{training['rows']:,} rows, fingerprint `{training['dataset'][:12]}`"
    made = [
        f"Conditions: {markdown(full_name(one['annotator'], one['variant']))}, {_parameters(one['parameters'])};"
        f" {markdown(one['licence'])}."
        for one in condition["annotators"]
    ]
    return ["## Data", "", f"{rows}. {''.join(made)}".rstrip(), ""]


def _parameters(made: Mapping[str, Any]) -> str:
    return ", ".join(markdown(f"{name} = {value}") for name, value in sorted(made.items())) or "no parameters"


def check_push(repository: str) -> None:
    """That a login can push there, before hours are spent. Raises MachineError."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
        if not get_token():
            raise ValueError("nobody is logged in to the Hub on this machine")
        HfApi().whoami()
    except Exception as error:  # a name, a token, or the network, of which each version of the library has its own
        raise MachineError(
            f'save.push_to_hub = "{repository}": {first_line(error).rstrip(".")}. Log in with `hf auth login` or HF_TOKEN, or say ""'
        ) from error


def push(folder: Path, repository: str) -> str:
    """Upload the result, without checkpoints and logs, to the Hub; returns its address.

    Raises MachineError; the folder stays as it is, and the same run, started again, has nothing to do but this.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        address = api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=str(folder), ignore_patterns=PRIVATE)
    except Exception as error:  # as above
        raise MachineError(
            f"{folder} is complete, but could not be pushed to {repository}: {first_line(error).rstrip('.')}. The same command pushes it"
            " again, without training"
        ) from error
    return str(address)
