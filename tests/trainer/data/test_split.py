"""A split as batches: cached or encoded on the fly the same, resumed and shared without a row lost, refused early."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.thorough import slow_ones
from support.trainer_models import build_dataset, save_base, save_pictures
from support.trainer_runs import silent

import condprep
from trainer.data.loader import Loader, held_out_batches
from trainer.data.open import open_split, open_splits
from trainer.data.sampler import Chance, SampledRow
from trainer.data.split import Split
from trainer.errors import DataError, MachineError
from trainer.models.families import Base, load_base
from trainer.recipe.recipe import Model, Recipe
from trainer.recipe.toml import parse_recipe
from trainer.training.plan import plan_training
from trainer.types import ONE_PROCESS, ProcessGroup, torch_dtype


@pytest.fixture(scope="module")
def folders(tmp_path_factory: Any) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("cache")
    made = {family: save_base(root / family, family) for family in ("sd15", "sdxl")}
    mixed = save_pictures(root / "mixed", 8)
    save_pictures(mixed / "wide", 8, (128, 64), seed=1)
    condprep.build(mixed, root / "buckets", "canny", resolution=128, fit="bucket", max_upscale=4)
    return made | {"ds": build_dataset(root / "ds", 16), "buckets": root / "buckets"}


@pytest.fixture(scope="module")
def bases(folders: dict[str, Path]) -> dict[str, Base]:
    return {family: load_base(Model(base=str(folders[family]))) for family in ("sd15", "sdxl")}


def recipe(folders: dict[str, Path], kept: Path, dataset: str = "ds", **tables: Any) -> Recipe:
    data = {"path": str(folders[dataset]), "resolution": 128 if dataset == "buckets" else 64, "num_workers": 0}
    stored = {"dir": str(kept), "dtype": "fp32"}
    return parse_recipe(
        {
            "data": data | tables.pop("data", {}),
            "cache": stored | tables.pop("cache", {}),
            "train": {"batch": 4, "micro_batch": 2} | tables.pop("train", {}),
            **tables,
        }
    )


def ready(wanted: Recipe, base: Base, group: ProcessGroup = ONE_PROCESS) -> Split:
    split = open_split(wanted, "train", training=True).with_caches(base)
    split.fill(group, silent)
    return split


OFF = {"latents": False, "text": False}


@pytest.mark.parametrize("family", ["sdxl", *slow_ones(["sd15"])])
@pytest.mark.parametrize("dataset", ["ds", "buckets"])
def test_cached_or_not_the_batches_are_the_same(
    family: str, dataset: str, folders: dict[str, Path], bases: dict[str, Base], tmp_path: Path
) -> None:
    """With caches in fp32, every batch equals the one that is decoded and encoded on the fly: rows, captions, mirrored ones too."""
    base, data = bases[family], {"hflip": 0.5, "caption_dropout": 0.3}
    wanted = [recipe(folders, tmp_path, dataset, data=data, cache=how) for how in ({}, OFF)]
    wanted.append(recipe(folders, tmp_path, dataset, data=data | {"hflip": 0.0}, cache=OFF))
    mirrored = 0
    for cached, fresh, straight in islice(zip(*(Loader(ready(one, base), 2) for one in wanted)), 16):
        assert (cached.keys, cached.epochs, cached.captions) == (fresh.keys, fresh.epochs, fresh.captions)
        assert cached.pixels is None
        assert not fresh.text
        assert torch.equal(cached.conditions, fresh.conditions)
        made = base.complete(fresh)
        assert cached.latents is not None
        assert made.latents is not None
        torch.testing.assert_close(cached.latents.mean, made.latents.mean, atol=1e-4, rtol=0)  # the mean is 0.05
        torch.testing.assert_close(cached.latents.std, made.latents.std, atol=1e-4, rtol=0)
        assert cached.text.keys() == made.text.keys()
        for name in made.text:
            torch.testing.assert_close(cached.text[name], made.text[name])
        assert (cached.time_ids is None) == (family == "sd15")
        assert cached.time_ids is None or torch.equal(cached.time_ids, made.time_ids)
        mirrored += not torch.equal(cached.conditions, straight.conditions)
    assert mirrored, "no row was mirrored: the test shows nothing"


def test_sizes_tell_the_denoiser_what_was_cut(folders: dict[str, Path], bases: dict[str, Base], tmp_path: Path) -> None:
    """SDXL's time ids are the source's size, where the bucket begins in the resized picture, and the bucket's size."""
    wanted = recipe(folders, tmp_path, "buckets", data={"resolution": 64, "fit": "crop"}, cache=OFF)
    split = open_split(wanted, "train", training=True).with_caches(bases["sdxl"])
    wide = next(number for number, size in enumerate(split.sizes) if size[1] > size[0])
    ids = split.batch([SampledRow(wide, 0)]).time_ids
    height, width = split.sizes[wide]
    assert ids is not None
    _, _, tx, _, _, ty = split.rows.transform(wide) or ()  # where the source's corner is, in stored pixels
    corner = [round(-ty * 64 / height), round(((width - height) / 2 - tx) * 64 / height)]
    assert ids[0, 2:].tolist() == [*corner, 64, 64]
    assert ids[0, :2].tolist() == pytest.approx([64, 128], abs=1), (
        "the pictures that were drawn; they are stored larger"
    )


def test_what_the_build_cut_is_told_too(bases: dict[str, Base], tmp_path: Path) -> None:
    """Pictures of 128 x 64 that a build has cut to squares of 64: the denoiser hears of 128 x 64, begun at 32."""
    pictures = save_pictures(tmp_path / "wide", 8, (128, 64))
    condprep.build(pictures, tmp_path / "ds", "canny", resolution=64, fit="crop")
    wanted = recipe({"ds": tmp_path / "ds"}, tmp_path, cache=OFF)
    split = open_split(wanted, "train", training=True).with_caches(bases["sdxl"])
    ids = split.batch([SampledRow(0, 0), SampledRow(5, 0)]).time_ids
    assert ids is not None
    assert ids.tolist() == [[64, 128, 0, 32, 64, 64]] * 2


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_stored_numbers_have_the_recipes_dtype(
    dtype: str, folders: dict[str, Path], bases: dict[str, Base], tmp_path: Path
) -> None:
    """Latents and text come back in `cache.dtype`, as near to the original as that allows."""
    wanted = recipe(folders, tmp_path, cache={"dtype": dtype})
    batch = next(iter(Loader(ready(wanted, bases["sd15"]), 4)))
    exact = next(iter(Loader(ready(recipe(folders, tmp_path), bases["sd15"]), 4)))
    assert batch.latents is not None
    assert exact.latents is not None
    kind = torch_dtype(dtype)
    assert batch.latents.mean.dtype == batch.text["prompt_embeds"].dtype == kind
    assert torch.equal(batch.latents.mean, exact.latents.mean.to(kind))


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*.npy"))
    }


def test_a_cache_is_made_once(folders: dict[str, Path], bases: dict[str, Base], tmp_path: Path) -> None:
    """Another learning rate, batch, seed or dropout encodes nothing; another resolution, VAE or dtype does."""
    ready(recipe(folders, tmp_path), bases["sd15"])
    before = files(tmp_path)
    ready(recipe(folders, tmp_path, data={"caption_dropout": 0.9}, train={"lr": 1.0, "seed": 7}), bases["sd15"])
    assert files(tmp_path) == before
    for changed in ({"data": {"resolution": 128}}, {"cache": {"dtype": "bf16"}}, {"data": {"hflip": 0.5}}):
        ready(recipe(folders, tmp_path, **changed), bases["sd15"])
        assert len(files(tmp_path)) > len(before)
        before = files(tmp_path)
    ready(recipe(folders, tmp_path), bases["sdxl"])
    assert len(files(tmp_path)) > len(before)


def test_mirrored_pictures_are_encoded_only_where_they_are_wanted(folders: dict[str, Path], tmp_path: Path) -> None:
    """hflip doubles the entries; held-out rows are never mirrored."""
    wanted = recipe(folders, tmp_path, data={"hflip": 0.5})
    train, validation = open_splits(wanted)
    assert validation is not None
    base = load_base(Model(base=str(folders["sd15"])))
    splits = [split.with_caches(base) for split in (train, validation)]
    counts = [sum(len(shard.rows) for shard in split.latents.shards) for split in splits]  # type: ignore[union-attr]
    assert counts == [2 * len(train.rows), len(validation.rows)]


def test_grey_conditions_take_one_plane(folders: dict[str, Path], bases: dict[str, Base], tmp_path: Path) -> None:
    """Canny maps are stored with one channel and read with three equal ones."""
    split = ready(recipe(folders, tmp_path), bases["sd15"])
    (stored,) = [np.load(path) for path in tmp_path.rglob("conditions-*.npy")]
    assert stored.shape == (len(split.rows), 1, 64, 64)
    conditions = next(iter(Loader(split, 4))).conditions
    assert conditions.shape == (4, 3, 64, 64)
    assert conditions.is_contiguous()
    assert torch.equal(conditions[:, 0], conditions[:, 2])


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("stopped_after", [0, 4, *slow_ones([1, 5, 9])])
def test_a_resumed_loader_goes_on_with_the_next_update(
    workers: int, stopped_after: int, folders: dict[str, Path], bases: dict[str, Base], tmp_path: Path
) -> None:
    """From the state after any batch, an update that was begun is repeated, then all is as if it had not stopped; threads change nothing."""
    wanted = recipe(folders, tmp_path, "buckets", data={"num_workers": workers, "caption_dropout": 0.5})
    split = ready(wanted, bases["sd15"])
    expected = [(batch.keys, batch.captions, batch.epochs) for batch in islice(Loader(split, 2), 12)]
    first = Loader(split, 2)
    for _ in islice(first, stopped_after):
        pass
    second = Loader(split, 2)
    second.load_state_dict(first.state_dict())
    found = [(batch.keys, batch.captions, batch.epochs) for batch in islice(second, 4)]
    begin = stopped_after // 2 * 2  # two passes an update
    assert found == expected[begin : begin + 4]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
@pytest.mark.parametrize("cached", [True, False])
def test_reading_wakes_no_threads_but_its_own(
    cached: bool, folders: dict[str, Path], bases: dict[str, Base], tmp_path: Path
) -> None:
    """The loader's threads leave arithmetic to numpy: torch's would each wake a team, which halves the training's speed."""
    cache = {"latents": cached, "text": cached}
    wanted = recipe(folders, tmp_path, data={"num_workers": 2, "resolution": 256}, cache=cache)
    split = ready(wanted, bases["sd15"])
    torch.ones(10**6).sum()  # the main thread's own team
    before = len(os.listdir("/proc/self/task"))
    batches = iter(Loader(split, 4))
    for _ in range(4):
        assert next(batches).conditions.numel() > 2**15  # torch would share out the work
    assert len(os.listdir("/proc/self/task")) <= before + 2
    batches.close()


def test_two_processes_see_the_rows_of_one(folders: dict[str, Path], bases: dict[str, Base], tmp_path: Path) -> None:
    """Batches of two processes, laid side by side, are those of one with twice the micro batch."""
    split = ready(recipe(folders, tmp_path), bases["sd15"])
    alone = [batch.keys for batch in islice(Loader(split, 4), 6)]
    pair = [[batch.keys for batch in islice(Loader(split, 2, ProcessGroup(rank, 2)), 6)] for rank in range(2)]
    assert [first + second for first, second in zip(*pair)] == alone


def test_captions_are_dropped_and_chosen_by_chance(folders: dict[str, Path], tmp_path: Path) -> None:
    """About the recipe's share of captions is empty; every alternative of a row is drawn."""
    wanted = recipe(folders, tmp_path, data={"caption_dropout": 0.25}, cache=OFF)
    split = open_split(wanted, "train", training=True)
    drawn = [split._caption(0, Chance.of(SampledRow(0, epoch), 1)) for epoch in range(2000)]
    assert 0.2 < drawn.count("") / len(drawn) < 0.3
    assert set(drawn) == {"", *split.rows.captions(0)}


def test_held_out_rows_are_the_same_each_time(folders: dict[str, Path], bases: dict[str, Base], tmp_path: Path) -> None:
    """Validation sees its rows in one order, with their first caption, none dropped; processes share them."""
    wanted = recipe(folders, tmp_path, data={"caption_dropout": 1.0, "hflip": 1.0})
    _, validation = open_splits(wanted)
    assert validation is not None
    split = validation.with_caches(bases["sd15"])
    split.fill(ONE_PROCESS, silent)
    keys = [batch.keys for batch in held_out_batches(split, 2)]
    assert keys == [batch.keys for batch in held_out_batches(split, 2)]
    assert sorted(chain(*keys)) == sorted(split.rows.key(number) for number in range(len(split.rows)))
    assert all(caption for batch in held_out_batches(split, 2) for caption in batch.captions)
    shared = [batch.keys for rank in range(2) for batch in held_out_batches(split, 2, ProcessGroup(rank, 2))]
    assert sorted(shared) == sorted(keys)
    pixels, condition, caption = split.view(0)
    assert pixels.shape == condition.shape == (64, 64, 3)
    assert caption == split.rows.captions(0)[0]


def test_a_disk_without_room_is_noticed_before_encoding(
    folders: dict[str, Path], bases: dict[str, Base], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing is encoded that does not fit; what is cached already needs no room."""
    wanted = recipe(folders, tmp_path)
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
        with pytest.raises(MachineError, match=r"needs 0\.1 MB more, and its disk has 0\.0 MB.*cache\.dir"):
            ready(wanted, bases["sd15"])
    assert not files(tmp_path)
    ready(wanted, bases["sd15"])
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
        ready(wanted, bases["sd15"])


def test_a_cache_that_may_not_be_written_says_where_to_put_it(folders: dict[str, Path], tmp_path: Path) -> None:
    """The remedy is a key of the recipe."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MachineError, match=r"cache\.dir"):
        open_splits(recipe(folders, tmp_path / "file" / "cache"))


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"train": {"batch": 64}}, "rows to train on, fewer than train.batch = 64"),
        ({"data": {"validation": "held-out"}}, "data.validation = 'held-out', but .* has train, validation"),
        ({"data": {"kind": "pose"}}, 'data.kind = "pose"'),
    ],
)
def test_a_dataset_that_does_not_fit_the_recipe_is_refused(
    tables: dict[str, Any], said: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Too few rows for an update, a validation split that is not there, another kind of condition."""
    with pytest.raises(DataError, match=said):
        open_splits(recipe(folders, tmp_path, **tables))


def test_the_default_validation_split_may_be_missing(folders: dict[str, Path], tmp_path: Path) -> None:
    """Without held-out rows one can train; nothing is validated."""
    assert open_splits(recipe(folders, tmp_path, "buckets"))[1] is None
    assert open_splits(recipe(folders, tmp_path, eval={"every": 0}))[1] is None


def test_a_picture_that_breaks_while_training_is_named(
    folders: dict[str, Path], bases: dict[str, Base], tmp_path: Path
) -> None:
    """A row whose header is fine but whose pixels are not stops with its key."""
    split = open_split(recipe(folders, tmp_path, cache=OFF), "train", training=True).with_caches(bases["sd15"])
    key, whole = split.rows.key(0), split.rows[0]
    object.__setattr__(split, "rows", _Broken(split.rows, whole.image[:200]))
    with pytest.raises(DataError, match=key):
        split.batch([SampledRow(0, 0)])


class _Broken:
    """Rows whose pictures are cut off."""

    def __init__(self, rows: Any, image: bytes) -> None:
        self._rows, self._image = rows, image

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rows, name)

    def __getitem__(self, number: int) -> Any:
        return replace(self._rows[number], image=self._image)


@pytest.mark.slow
def test_the_plan_counts_what_training_will_do(folders: dict[str, Path], tmp_path: Path) -> None:
    """Rows, buckets, updates and the bytes of the caches are those that come out."""
    tables: dict[str, Any] = {"model": {"base": str(folders["sdxl"])}, "train": {"epochs": 3}, "data": {"hflip": 0.5}}
    wanted = recipe(folders, tmp_path, **tables)
    plan = plan_training(wanted)
    assert (plan.family, plan.kind, plan.resampled) == ("sdxl", "canny", 0)
    assert plan.buckets == {(64, 64): plan.rows}
    assert plan.updates == -(-3 * plan.rows // 4)
    base = load_base(wanted.model)
    for split in open_splits(wanted):
        assert split is not None
        filled = split.with_caches(base)
        filled.fill(ONE_PROCESS, silent)
    stored = sum(np.load(path).nbytes for path in tmp_path.rglob("*.npy"))
    assert plan.cache_bytes == stored
