"""The shipped configurations of accelerate, with processes on CPUs: as many as are asked for, each with its number."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from support.trainer_runs import make_place, make_recipe
from support.warm import Started, Warm

from trainer.recipe.toml import dump_recipe

FOLDER = Path(__file__).parents[3] / "recipes" / "accelerate"
TELL = """
import json, os, sys
names = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
with open(os.path.join(sys.argv[1], os.environ["RANK"]), "w") as file:
    json.dump([int(os.environ[name]) for name in names], file)
"""


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def launched(warm: Warm, folder: Path, name: str, *words: object) -> Started:
    """`accelerate launch` with a shipped configuration and two processes in all."""
    folder.mkdir()
    launch = ("accelerate.commands.launch", "--config_file", FOLDER / name, "--num_processes", 2)
    return warm.start(folder, *map(str, launch), *words)


def both_nodes(warm: Warm, folder: Path, *words: object) -> list[Started]:
    """The configuration of two machines, both of which are this one."""
    port = free_port()
    where = ("--main_process_ip", "127.0.0.1", "--main_process_port", port)
    return [
        launched(warm, folder / f"node{n}", "two-nodes.yaml", *where, "--machine_rank", n, *words) for n in range(2)
    ]


def numbers(folder: Path) -> list[list[int]]:
    return [json.loads(path.read_text()) for path in sorted(folder.iterdir())]


def ended(*nodes: Started) -> None:
    for node in nodes:
        assert node.wait() == 0, node.said("err")[-3000:]


def test_eight_gpus_are_started_as_processes_of_one_machine(warm: Warm, tmp_path: Path) -> None:
    """Two of them here: each is told its number, and that both are on this machine."""
    tell, told = tmp_path / "tell.py", tmp_path / "told"
    tell.write_text(TELL)
    told.mkdir()
    ended(launched(warm, tmp_path / "node", "8-gpus.yaml", "--main_process_port", free_port(), tell, told))
    assert numbers(told) == [[0, 2, 2], [1, 2, 2]]


def test_two_nodes_find_each_other(warm: Warm, tmp_path: Path) -> None:
    """A process on each: numbered across both, one on each machine."""
    tell, told = tmp_path / "tell.py", tmp_path / "told"
    tell.write_text(TELL)
    told.mkdir()
    ended(*both_nodes(warm, tmp_path, tell, told))
    assert numbers(told) == [[0, 2, 1], [1, 2, 1]]


@pytest.mark.slow
def test_the_trainer_shares_weights_on_two_nodes(warm: Warm, tmp_path: Path) -> None:
    """The command of the documents, on CPUs: a run of two machines that have a part of the weights each."""
    out, file = tmp_path / "out", tmp_path / "recipe.toml"
    made = make_recipe(make_place(tmp_path, 12), out, train={"steps": 1, "shard": "full", "warmup": 0})
    file.write_text(dump_recipe(made))
    ended(*both_nodes(warm, tmp_path, "-m", "trainer", file))
    record = json.loads((out / "training.json").read_text())
    assert (record["processes"], record["sharded"], record["updates"]) == (2, True, 1)
    assert os.listdir(out / "checkpoints") == ["00000001"]
