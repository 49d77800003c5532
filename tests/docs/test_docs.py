"""The documents tell the truth: snippets run, commands are understood, tables say what the code says, links lead on."""

from __future__ import annotations

import contextlib
import gc
import inspect
import io
import re
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.datasets import tree
from support.docs import DOCS, FENCES, PAGES, Fence, default_of, fences, names_of, section, tables, ticked
from typer.main import get_command

import condprep
from condprep import errors
from condprep.annotators.registry import parameters, parse, specs
from condprep.building.inputs import INPUT_KINDS
from condprep.building.options import BuildOptions, parse_options
from condprep.building.result import BuildResult
from condprep.cli import main as cli
from condprep.dataset.columns import columns
from condprep.images.decode import MAX_PIXELS
from condprep.images.geometry import buckets
from condprep.sources.base import MAX_FILE
from condprep.sources.kinds import PICTURES
from condprep.sources.metadata import MAX_LINE
from condprep.sources.text import MAX_CAPTION
from condprep.weights.find import Weights
from condprep.weights.pins import pin
from trainer.cli import main as trainer_cli
from trainer.recipe.recipe import Recipe
from trainer.recipe.toml import describe, literal, parse_recipe, shipped_recipes

PRINTED = re.compile(r"^ *print\(.*\)  # (.+)$", re.MULTILINE)


def run(fence: Fence, namespace: dict[str, Any]) -> None:
    """Run a block; what its `print(...)  # ...` lines print must be what their comments say."""
    if fence.language == "python":
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * fence.line + fence.text, str(fence.page), "exec"), namespace)
        if expected := PRINTED.findall(fence.text):
            assert printed.getvalue().splitlines() == expected, str(fence)
    for arguments in fence.commands if fence.language == "bash" else ():
        assert not cli.app(arguments, standalone_mode=False), f"{fence}: {arguments}"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few photographs in raw/, and photo.jpg; to be copied."""
    from skimage import data

    folder = tmp_path_factory.mktemp("photos")
    (folder / "raw").mkdir()
    pictures = {"astronaut.jpg": data.astronaut, "cat.png": data.chelsea, "coffee.png": data.coffee}
    for name, picture in pictures.items():
        Image.fromarray(picture()).save(folder / "raw" / name)
    (folder / "raw" / "coffee.txt").write_text("a cup of espresso on a wooden table")
    Image.fromarray(data.astronaut()).save(folder / "photo.jpg")
    return folder


@pytest.fixture
def folder(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the snippets run: those photographs."""
    shutil.copytree(photos, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONDPREP_WEIGHTS", raising=False)
    return tmp_path


def install(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the package that a page shows: its module, and the entry points in its pyproject.toml."""
    blocks = list(fences(page))
    for project in (tomllib.loads(block.text) for block in blocks if block.language == "toml"):
        if "project" not in project:
            continue
        name = project["project"]["name"].replace("-", "_")
        (source,) = (block.text for block in blocks if block.text.startswith(f"# {name}.py\n"))
        (folder / "site" / f"{name}-0.1.0.dist-info").mkdir(parents=True)
        (folder / "site" / f"{name}.py").write_text(source)
        points = "".join(
            f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in entries.items())
            for group, entries in project["project"]["entry-points"].items()
        )
        (folder / "site" / f"{name}-0.1.0.dist-info" / "entry_points.txt").write_text(points)
        (folder / "site" / f"{name}-0.1.0.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: 0.1.0\n")
        monkeypatch.syspath_prepend(str(folder / "site"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # a page opens files as its readers do
@pytest.mark.parametrize("page", [page for page in PAGES if any(fences(page))], ids=lambda page: page.name)
def test_the_snippets_of_a_page_run(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python and its commands run one after the other in one folder, and print what their comments say."""
    install(page, folder, monkeypatch)
    namespace: dict[str, Any] = {"__name__": "snippets"}
    for fence in fences(page):
        if not fence.words:
            run(fence, namespace)
    namespace.clear()
    gc.collect()  # closes them here and not within another test, to which the warning would be an error


@pytest.mark.slow
@pytest.mark.parametrize("fence", [fence for fence in FENCES if fence.words.startswith("needs ")], ids=str)
@pytest.mark.usefixtures("folder")
def test_snippets_that_need_weights_run_where_these_are(fence: Fence, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block marked "needs NAME:VARIANT" runs alone, where that variant's weights, or "needs package:NAME" that package, are."""
    name = fence.words.removeprefix("needs ")
    if name.startswith("package:"):
        pytest.importorskip(name.removeprefix("package:"), reason=f"{name} is not installed")
        monkeypatch.setenv("RAY_ADDRESS", "local")  # and not a cluster that another test has on this machine
        run(fence, {"__name__": "snippets"})
        return
    spec, variant = parse(name)
    if missing := [file for file in spec.weights[variant] if not Weights(offline=True).locate(file)]:
        pytest.skip(f"{name} needs {', '.join(missing)}, not on this machine")
    run(fence, {"__name__": "snippets"})


@pytest.fixture(scope="module")
def verbs() -> Any:
    """The command line, put together once."""
    return get_command(cli.app)


@pytest.mark.parametrize("fence", [fence for fence in FENCES if fence.commands], ids=str)
def test_every_command_line_is_understood(fence: Fence, verbs: Any) -> None:
    """Each `condprep ...` line names a verb and options that exist, with values of the right type."""
    for arguments in fence.commands:
        command = verbs
        while hasattr(command, "commands"):
            command = command.commands[arguments.pop(0)]
        command.make_context("condprep", arguments)


def test_no_snippet_is_left_out_by_a_slip() -> None:
    """Every block has a known language and known words, so that none is skipped unnoticed."""
    for fence in FENCES:
        assert fence.language in ("python", "bash", "sh", "text", "toml"), str(fence)
        assert re.fullmatch(r"|needs \S+", fence.words), str(fence)


def test_every_link_leads_somewhere() -> None:
    """Links between the pages name a file that exists, and a heading in it."""
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            path, _, anchor = target.partition("#")
            if path.startswith(("http:", "https:")):
                continue
            there = (page.parent / path).resolve() if path else page
            assert there.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in _anchors(there), f"{page.name}: {target}"


def _anchors(page: Path) -> set[str]:
    """The headings as GitHub turns them into anchors."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def leaves(command: Any, path: str = "condprep") -> Iterator[tuple[str, Any]]:
    """(full name, command) of every verb."""
    for name, child in getattr(command, "commands", {}).items():
        yield from leaves(child, f"{path} {name}")
    if not hasattr(command, "commands"):
        yield path, command


def test_the_command_line_is_documented() -> None:
    """docs/cli.md has every verb, each with every argument, option and default, and none that does not exist."""
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    commands = dict(leaves(get_command(cli.app)))
    assert set(re.findall(r"^## (condprep .+)$", text, re.MULTILINE)) == set(commands)
    for name, command in commands.items():
        rows = tables(section(DOCS / "cli.md", f"## {name}"))[0]
        documented = {tuple(ticked(names)): default for names, default, _ in rows}
        assert documented == {names_of(parameter): default_of(parameter) for parameter in command.params}, name


def test_the_fields_of_a_result_are_documented() -> None:
    """docs/cli.md lists what `build --json` prints."""
    rows = tables(section(DOCS / "cli.md", "## condprep build"))[1]
    assert [ticked(row[0])[0] for row in rows] == [field.name for field in fields(BuildResult)]


def test_the_arguments_of_build_are_documented() -> None:
    """docs/python.md has every argument and option of condprep.build with its default."""
    rows = tables(section(DOCS / "python.md", "## condprep.build"))[0]
    options = {
        name: field.default for name, field in BuildOptions.model_fields.items() if name != "beside"
    }  # not a user's
    for function in (parse_options, condprep.build):
        taken = inspect.signature(function).parameters.values()
        options |= {p.name: p.default for p in taken if p.kind is not p.VAR_KEYWORD}
    expected = {name: "" if callable(value) else repr(value) for name, value in options.items()}
    documented = {ticked(name)[0]: "".join(ticked(default)) for name, default, _ in rows}
    assert documented == expected


def test_the_public_names_and_errors_are_documented() -> None:
    """docs/python.md names what `condprep` exports, and draws the tree of errors as it is."""
    text = (DOCS / "python.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in condprep.__all__ if name != "__version__")
    tree = {
        name: len(indent) // 2
        for indent, name in re.findall(r"^    ( *)(\w+Error|Weights\w+|\w+Failed|\w+Fault)\b", text, re.MULTILINE)
    }
    classes = [c for c in vars(errors).values() if inspect.isclass(c) and issubclass(c, errors.CondprepError)]
    assert tree == {c.__name__: c.__mro__.index(errors.CondprepError) for c in classes if c is not errors.Rejected}


def test_the_columns_are_documented() -> None:
    """docs/dataset.md has the columns of a dataset in their order."""
    options = parse_options(annotators=("canny", "canny:random"))
    documented = [name for row in tables(section(DOCS / "dataset.md", "## Columns"))[0] for name in ticked(row[0])]
    ours = ["canny", "openpose", "keypoints", "canny_thresholds"]  # of annotators: examples
    actual = [name for name in columns(list(options.columns().values()), {}) if not name.startswith("canny")]
    assert [name for name in documented if name not in ours] == actual
    assert documented.index("conditioning_image") < documented.index("canny") < documented.index("key")


def test_the_files_are_documented(folder: Path) -> None:
    """docs/dataset.md draws the very files of a dataset."""
    condprep.build("raw", "ds", "canny", validation=0.3)
    drawing = next(fence for fence in fences(DOCS / "dataset.md") if fence.language == "text")
    documented, parents = set(), [""]
    for indent, name in re.findall(r"^( *)(\S+)", drawing.text, re.MULTILINE):
        parents = [*parents[: len(indent) // 2 + 1], name]
        documented.add("".join(parents[2:]))
    actual = {path for path in tree(folder / "ds") if not path.startswith("validation/")}
    assert {path for path in documented if path and not path.endswith("/")} - {".condprep/lock"} == actual
    assert (folder / "ds" / ".condprep" / "lock").exists()
    assert (folder / "ds" / "validation").is_dir()


def test_the_buckets_are_documented() -> None:
    """docs/geometry.md lists the buckets of 512."""
    cells = [cell for row in tables(section(DOCS / "geometry.md", "## Buckets"))[0] for cell in row if cell]
    documented = {(int(height), int(width)) for width, height in (cell.split(" x ") for cell in cells)}
    assert documented == set(buckets(512))
    assert len(cells) == len(documented)


def test_the_annotators_are_documented() -> None:
    """docs/annotators.md has every built-in annotator: aliases, variants, parameters, licence."""
    rows = {ticked(row[0])[0]: row for row in tables((DOCS / "annotators.md").read_text(encoding="utf-8"))[0]}
    assert rows.keys() == specs().keys()
    for name, spec in specs().items():
        cell, _, variants, documented, licence = rows[name]
        assert ticked(cell) == [name, *spec.aliases]
        assert ticked(variants) == [variant for variant in spec.variants if variant]
        assert ticked(documented) == list(parameters(spec))
        assert licence == spec.licence


def test_the_weights_are_documented() -> None:
    """docs/annotators.md has every weights file that an annotator needs: whose it is, size, origin, licence."""
    users: dict[str, list[str]] = {}
    for spec in specs().values():
        for variant, files in spec.weights.items():
            for file in files:
                users.setdefault(file, []).append(f"{spec.name}{':' * bool(variant)}{variant}")
    rows = tables(section(DOCS / "annotators.md", "## Weights"))[0]
    documented = {ticked(file)[0]: (ticked(of), size, origin, licence) for file, of, size, origin, licence in rows}
    assert documented == {
        name: (users[name], pin(name).megabytes, str(pin(name).origin), pin(name).licence) for name in users
    }


def test_the_sources_are_documented() -> None:
    """docs/sources.md has the kinds, the extensions that make an input, and the limits."""
    page = DOCS / "sources.md"
    assert tuple(ticked(row[0])[0] for row in tables(page.read_text(encoding="utf-8"))[0]) == INPUT_KINDS
    text = section(page, "## A folder")
    assert set(re.findall(r"`\.(\w+)`", text)) == PICTURES
    limits = {row[0]: row[1] for row in tables(section(page, "## Limits"))[0]}
    assert limits["a picture"].startswith(f"{MAX_PIXELS // 10**6} Mpx")
    assert limits["a file or a member of a tar"] == f"{MAX_FILE >> 30} GiB"
    assert limits["a caption or caption file"].startswith(f"{MAX_CAPTION >> 10} KiB")
    assert limits["a line of metadata"] == f"{MAX_LINE >> 20} MiB"


RECIPES = DOCS / "recipes.md"


def test_every_key_of_a_recipe_is_documented() -> None:
    """docs/recipes.md has a table for every table of a recipe: keys, defaults and what they may be, in their order."""
    for name, outer in Recipe.model_fields.items():
        keys: Any = outer.annotation
        rows = [row[:3] for row in tables(section(RECIPES, f"## [{name}]"))[0]]
        expected = [
            [f"`{key}`", f"`{literal(field.default)}`", describe(field)] for key, field in keys.model_fields.items()
        ]
        assert rows == expected, name


def test_the_recipes_of_the_documents_are_recipes() -> None:
    """Every toml block of docs/recipes.md is understood, and every shipped recipe is named."""
    for fence in fences(RECIPES):
        if fence.language == "toml":
            parse_recipe(tomllib.loads(fence.text))
    rows = tables(section(RECIPES, "## Shipped recipes"))[0]
    assert sorted(ticked(row[0])[0] for row in rows) == shipped_recipes()


def test_the_trainers_options_are_documented() -> None:
    """docs/recipes.md has every argument and option of `python -m trainer RECIPE`, and none that does not exist."""
    command: Any = get_command(trainer_cli.app)
    rows = tables(section(RECIPES, "## The command"))[0]
    documented = {tuple(ticked(names)): default for names, default, _ in rows}
    assert documented == {names_of(p): default_of(p) for p in command.commands["train"].params}
