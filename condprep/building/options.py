"""What a build can be told. Everything here changes the dataset's bytes, so it is recorded in the plan and a resumed
build must say the same; what does not (workers, device, where weights lie) are arguments of `condprep.build`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError, field_validator, model_validator

from condprep.annotators.registry import canonical, canonical_family, parameters, parse, validate
from condprep.dataset.shards import Form
from condprep.dataset.splits import split_by
from condprep.errors import UsageError
from condprep.images.geometry import Geometry
from condprep.types import IMPORTED, ConditionKind, DecodeMode, FitMode, ImageFormat

MEGA = 1_000_000


class BuildOptions(BaseModel):
    """The options of `condprep build`, validated. Sizes in pixels, bytes in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    annotators: tuple[str, ...]  # none: the maps come with the pictures
    params: dict[str, dict[str, Any]] = {}  # annotator name -> its parameters
    beside: tuple[str, ...] = ()  # columns of the dataset to which these are added
    condition_kind: ConditionKind | None = None  # of maps that come with the pictures; default: what they look like
    primary: str | None = None  # which annotator's map is also `conditioning_image`; default: the first
    resolution: int = Field(512, ge=64, le=8192, multiple_of=8)
    fit: FitMode = "crop"
    max_upscale: float = Field(2.0, ge=1, allow_inf_nan=False)  # it is recorded, and JSON knows neither
    image_format: ImageFormat = "jpeg"
    image_quality: int = Field(95, ge=1, le=100)
    max_pixels: int = Field(200 * MEGA, ge=1)
    allow_truncated: bool = False
    decode: DecodeMode = "auto"  # of large JPEGs: at a smaller scale, or "exact"
    drop_empty: bool = False  # reject pictures whose conditioning_image shows nothing
    captions: Literal["first", "list"] = "first"
    validation: float = Field(0.0, ge=0, lt=1)
    validation_by: Literal["group"] | None = None  # whole folders and tars are held out; default: each by its key
    limit: int | None = Field(None, ge=1)  # inputs: only the first so many; default: all
    shard_rows: int = Field(1000, ge=1)
    shard_bytes: int = Field(500 * MEGA, ge=MEGA)
    batch_size: int | None = Field(None, ge=1)  # pictures a call of a batched annotator; default: its own
    network_memory: ByteSize | None = Field(
        None, ge=MEGA
    )  # bytes, for pictures of a call; default: half of the device's
    format: Form = "arrow"

    @model_validator(mode="before")
    @classmethod
    def _kept(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Pairs that are there already are kept as they are, where the user does not say otherwise."""
        chosen = {name: value for name, value in values.items() if name != "fit" or value is not None}
        return chosen if values.get("annotators") else {"fit": "keep"} | chosen

    @field_validator("annotators")
    @classmethod
    def _distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError("an annotator is named twice")
        return names

    @field_validator("network_memory", mode="wrap")
    @classmethod
    def _bytes(cls, value: Any, read: Callable[[Any], Any]) -> Any:
        try:
            return read(value)
        except ValidationError:
            raise ValueError("give bytes, a megabyte at least, as 12GB or 12000000000") from None

    @model_validator(mode="after")
    def _known_names(self) -> BuildOptions:
        named = {text.partition(":")[0] for text in self.annotators}
        if stray := sorted(set(self.params) - named):
            raise ValueError(
                f"parameters for {stray[0]!r}, which is not among the annotators {', '.join(sorted(named)) or '(none)'}"
            )
        if self.primary and self.primary not in self.annotators:
            raise ValueError(
                f"primary {self.primary!r} is not among the annotators {', '.join(self.annotators) or '(none)'}"
            )
        return self

    @model_validator(mode="after")
    def _a_column_each(self) -> BuildOptions:
        columns = list(self.columns().values())
        twice = [text for text, column in self.columns().items() if columns.count(column) > 1]
        if twice:
            column = self.columns()[twice[0]]
            raise ValueError(f"{' and '.join(twice)} would both be the column {column!r}; give one folder another name")
        return self

    @model_validator(mode="after")
    def _importable(self) -> BuildOptions:
        if self.annotators and self.condition_kind:
            raise ValueError("--condition-kind is about maps that come with the pictures; leave it out, or --annotator")
        return self

    @property
    def condition(self) -> str:
        """The column whose map is `conditioning_image`."""
        if not self.annotators:
            return "conditioning_image"
        return self.columns()[self.primary or self.annotators[0]]

    @property
    def geometry(self) -> Geometry:
        return Geometry(self.resolution, self.fit, self.max_upscale, self.decode)

    def split_of(self, key: str, source: str) -> str:
        """Where a row goes."""
        return split_by(self.validation_by or "key", key, source, self.validation)

    def columns(self) -> dict[str, str]:
        """annotator -> the column of its map: its name, with the variant where that is taken."""
        if not self.annotators:
            return {IMPORTED: "conditioning_image"}
        names = [text.partition(":")[0] for text in self.annotators]
        taken = [*names, *self.beside]
        return {
            text: name if taken.count(name) == 1 else text.replace(":", "_").replace("/", "_")
            for text, name in zip(self.annotators, names)
        }


def parse_options(
    annotators: str | Sequence[str],
    params: Mapping[str, Mapping[str, Any]] | None = None,
    precision: str | None = None,
    **values: Any,
) -> BuildOptions:
    """BuildOptions, or a UsageError that quotes the option and the value in words of the command line.

    precision: given to every annotator that has such a parameter and for which `params` does not set it.
    """
    names = tuple(map(canonical, (annotators,) if isinstance(annotators, str) else annotators))
    if values.get("primary"):
        values["primary"] = canonical(values["primary"])
    settings = {canonical_family(name): dict(given) for name, given in (params or {}).items()}
    for spec in (parse(name)[0] for name in names):
        if precision and "precision" in parameters(spec):
            settings.setdefault(spec.name, {}).setdefault("precision", precision)
        validate(spec, settings.get(spec.name, {}))
    try:
        return BuildOptions(annotators=names, params=settings, **values)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "extra_forbidden":
            raise UsageError(_unknown(str(first["loc"][0]))) from None
        message = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:
            raise UsageError(message) from None
        option = "--" + str(first["loc"][0]).replace("_", "-").replace("annotators", "annotator")
        raise UsageError(f"{option} = {first['input']!r}: {message}") from None


def _unknown(name: str) -> str:
    """Only a call from Python can name an option that there is not: the command line knows its own."""
    known = [*BuildOptions.model_fields, "precision"]
    near = difflib.get_close_matches(name, known, n=1) or [one for one in known if one.startswith(name)][:1]
    meant = f"did you mean {near[0]}?" if near else f"known are its arguments and {', '.join(sorted(known))}"
    return f"build(...) has no argument {name!r}; {meant}"


def parse_shard_size(text: str) -> dict[str, Any]:
    """ "1000" rows, "500MB" bytes, or both: "1000,500MB" -> shard_rows and shard_bytes."""
    units = {"KB": 1000, "MB": MEGA, "GB": 1000 * MEGA}
    sizes: dict[str, int] = {}
    for part in text.upper().replace(" ", "").split(","):
        number, unit = (part[:-2], part[-2:]) if part[-2:] in units else (part, "")
        if not (
            number.isascii() and number.isdecimal()
        ):  # int() knows digits of many scripts, and not all that isdigit() does
            raise UsageError(f"--shard-size {text!r} is neither rows (1000), bytes (500MB), nor both (1000,500MB)")
        sizes["shard_bytes" if unit else "shard_rows"] = int(number) * units.get(unit, 1)
    return sizes
