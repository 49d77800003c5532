"""The table of annotators: `load_annotator("openpose:blaze")` finds, validates and loads one by name."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condprep.annotators.base import BaseAnnotator
from condprep.annotators.builtin import BUILTIN
from condprep.annotators.described import Described
from condprep.annotators.protocol import Annotator, AnnotatorSpec
from condprep.errors import AnnotatorError, WeightsUnavailable
from condprep.runtime.fork import check_cuda, keep_torch_usable
from condprep.runtime.once import OncePerProcess

if TYPE_CHECKING:
    from condprep.weights.find import Weights

ENTRY_POINTS = "condprep.annotators"


def specs() -> dict[str, AnnotatorSpec]:
    """Every annotator by name: the built-in ones and those of installed packages that can be loaded."""
    table = {spec.name: spec for spec in BUILTIN}
    for point in _plugs(entry_points, tuple(sys.path)):
        if isinstance(spec := _plugged_in(point), AnnotatorSpec):
            table[spec.name] = spec
    return table


@lru_cache(1)
def _plugs(find: Callable[..., Iterable[EntryPoint]], places: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """What packages offer in these places. To look takes some 30 ms, as every installed package is opened for it."""
    return tuple(find(group=ENTRY_POINTS))


def _plugged_in(point: EntryPoint) -> AnnotatorSpec | str:
    """What an installed package offers, or why it cannot be used: that is its own users' trouble, and no one else's."""
    try:
        spec = point.load()
    except (Exception, SystemExit) as error:  # another package's code, while it is imported
        return f"cannot be imported ({type(error).__name__}: {error})"
    if isinstance(spec, AnnotatorSpec):
        return spec
    return f"is a {type(spec).__name__}; it must be a condprep.AnnotatorSpec"


def parse(text: str) -> tuple[AnnotatorSpec, str]:
    """ "openpose:blaze" -> (its spec, "blaze"). Raises AnnotatorError with the nearest names for an unknown one."""
    name, _, variant = text.partition(":")
    table = specs()
    if moved := [spec for spec in table.values() if text in spec.former]:
        return moved[0], moved[0].former[text]
    names = {alias: spec for spec in table.values() for alias in (spec.name, *spec.aliases)}
    if name not in names:
        raise AnnotatorError(_unknown(name, table))
    spec = names[name]
    if not variant and (spec.variants or spec.open_variant) and "" not in spec.variants:
        listed = [f"{name}:{v}" for v in spec.variants] + [f"{name}:OWNER/MODEL, {spec.open_variant}"] * bool(
            spec.open_variant
        )
        raise AnnotatorError(f"{name!r} needs a variant: {', '.join(listed)}")
    if variant in spec.left_out:
        raise AnnotatorError(f"there is no {name}:{variant}: {spec.left_out[variant]}")
    if variant and variant not in spec.variants and not (spec.open_variant and _is_path(variant)):
        other = f", or {spec.open_variant}" if spec.open_variant else ""
        near = _nearest(variant, spec.variants)
        raise AnnotatorError(f"annotator {spec.name!r} has no variant {variant!r}{near}{other}")
    return spec, variant


def _unknown(name: str, table: Mapping[str, AnnotatorSpec]) -> str:
    """What to say of a name that is not in the table: a broken package's, a variant, one that is left out, or a slip."""
    for point in entry_points(group=ENTRY_POINTS, name=name):
        if isinstance(problem := _plugged_in(point), str):
            return f"annotator {name!r}: the entry point {point.value!r} in the group {ENTRY_POINTS!r} {problem}"
    if reasons := [spec.left_out[name] for spec in table.values() if name in spec.left_out]:
        return f"there is no annotator {name!r}: {reasons[0]}"
    if variants := [f"{spec.name}:{name}" for spec in table.values() if name and name in spec.variants]:
        return f"unknown annotator {name!r}; did you mean {' or '.join(variants)}?"
    near = _nearest(name, [alias for spec in table.values() for alias in (spec.name, *spec.aliases)])
    return f"unknown annotator {name!r}{near}{'' if near.endswith('?') else ';'} `condprep annotators` lists them all"


def canonical(text: str) -> str:
    """The name without aliases: "midas" -> "depth"."""
    spec, variant = parse(text)
    return f"{spec.name}:{variant}" if variant else spec.name


def canonical_family(text: str) -> str:
    """The same of what parameters are given to: "segmentation", too, which without a variant is no annotator."""
    return text if text in specs() else canonical(text)


def load_annotator(
    name: str,
    *,
    device: str = "cpu",
    params: Mapping[str, Any] | None = None,
    weights: Weights | None = None,
) -> Annotator:
    """Load an annotator by `name` or `name:variant`, ready to be called with a batch.

    `params` are the annotator's own parameters ({"low": 50}), validated before anything is loaded; `weights` says
    where weights come from (default: CONDPREP_WEIGHTS, the Hub cache, a pinned download). One of condprep's own pickles
    as what to load. Raises AnnotatorError for an unknown name, variant, parameter or device and WeightsError where
    weights are missing or damaged.
    """
    from condprep.weights.find import Weights

    spec, variant = parse(name)
    load: Callable[..., Annotator] = _resolve(spec.load)
    weights = weights or Weights()
    there = "cpu" if spec.cpu_only and device == "auto" else check_device(device)
    keep_torch_usable()
    annotator = load(variant, validate(spec, params or {}), device=there, weights=weights)
    if isinstance(annotator, BaseAnnotator):
        described = Described.of(annotator, device, params or {}, weights)
        annotator.pickled = load_described, (described,)
        _loaded.remember(repr(described), annotator)
    return annotator


_loaded: OncePerProcess[Annotator] = OncePerProcess()


def load_described(described: Described) -> Annotator:
    """The annotator as another process described it: loaded once in each process, however often it is unpickled.

    Raises AnnotatorError where another condprep or other weights are here.
    """
    described.check_version()

    def load() -> Annotator:
        annotator = load_annotator(
            described.name, device=described.device, params=described.params, weights=described.weights
        )
        described.check_weights(annotator.provenance["weights"])
        return annotator

    return _loaded.get(repr(described), load)


def find_weights(name: str, weights: Weights) -> dict[str, str | None]:
    """File -> sha256 of an annotator's weights, None where it cannot be had and another variant may stand in.

    What is not on this machine is fetched.
    """
    spec, variant = parse(name)
    if variant and variant not in spec.variants:  # a model of transformers: a folder, or a name on the Hub
        from condprep.annotators.pretrained import fingerprints

        return dict(fingerprints(Path(variant)))
    files = spec.weights.get(variant) or next(iter(spec.weights.values()), ())
    return {file: _sha256(file, weights) for file in files}


def _sha256(file: str, weights: Weights) -> str | None:
    try:
        return weights.get(file).sha256
    except WeightsUnavailable:
        return None


def validate(spec: AnnotatorSpec, params: Mapping[str, Any]) -> Any:
    """The annotator's parameters as its own model. Raises AnnotatorError that quotes the key and the value."""
    if spec.params is None:
        if params:
            raise AnnotatorError(f"annotator {spec.name!r} has no parameters, but got {', '.join(params)}")
        return None
    from pydantic import ValidationError

    model = _resolve(spec.params)
    unknown = [key for key in params if key not in model.model_fields]
    if unknown:
        raise AnnotatorError(f"{spec.name} has no parameter {unknown[0]!r}{_nearest(unknown[0], model.model_fields)}")
    try:
        return model(**params)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([spec.name, *map(str, first["loc"])])
        raise AnnotatorError(f"{where} = {first['input']!r}: {first['msg'].removeprefix('Value error, ')}") from None


def parameters(spec: AnnotatorSpec) -> dict[str, str]:
    """The annotator's parameters, name -> what it is."""
    model = _resolve(spec.params)
    return {name: field.description or "" for name, field in model.model_fields.items()} if model else {}


def in_order(record: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance of an annotator, its parameters and weights as they are declared, others behind them by name.

    In memory they have the annotator's own order, in files they are sorted: so what is shown does not tell where it is from.
    """
    spec = specs().get(record["annotator"])
    params, files = (list(parameters(spec)), spec.weights.get(record["variant"], ())) if spec else ([], ())
    ordered = {"parameters": _by_place(record["parameters"], params), "weights": _by_place(record["weights"], files)}
    return {**record, **ordered}


def _by_place(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    places = {name: number for number, name in enumerate(names)}
    return dict(sorted(values.items(), key=lambda item: (places.get(item[0], len(places)), item[0])))


def check_device(device: str) -> str:
    """The device, if torch can use it; "auto" is CUDA where there is one.

    Raises AnnotatorError: a GPU that was asked for and is missing is never a silent CPU run.
    """
    if device == "cpu":
        return device
    import torch

    if device == "auto":
        check_cuda()
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise AnnotatorError(f"device {device!r}: {str(error).splitlines()[0]}") from None
    if kind == "meta":
        raise AnnotatorError(f"device {device!r} computes nothing; use cpu or cuda")
    if kind == "cuda":
        check_cuda()
    if kind == "cuda" and not torch.cuda.is_available():
        raise AnnotatorError(
            f"device {device!r} was asked for, but torch {torch.__version__} sees no CUDA device; use --device cpu"
        )
    return device


def _resolve(target: Any) -> Any:
    if not isinstance(target, str):
        return target
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)


def _is_path(variant: str) -> bool:
    """A Hub id ("owner/model") or a local folder."""
    return "/" in variant or Path(variant).is_dir()


def _nearest(word: str, words: Any) -> str:
    near = difflib.get_close_matches(word, [w for w in words if w], n=3, cutoff=0.51)  # "gray" is no slip for "canny"
    return f"; did you mean {' or '.join(near)}?" if near else f"; known: {', '.join(sorted(w for w in words if w))}"
