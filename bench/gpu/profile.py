"""Where an update's time goes: its ten longest operations, how often the host waits, and how long nothing runs on the device."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import environment
from bench.bases import make_base
from bench.gpu.figures import Figures
from bench.gpu.training import LEAST
from bench.train import chosen, make_dataset, ways
from bench.train import options as train_options
from condprep.runtime.files import commit_text

# Runs the trainer and looks at updates COUNTED to COUNTED + 3 (waits), PROFILED to PROFILED + 3 (operations): argv is FILE ARGUMENTS...
LOOK = """
import json, runpy, sys, time, warnings
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.profiler import ProfilerActivity, profile
_, file, counted, profiled, *sys.argv = sys.argv
counted, profiled, gpu = int(counted), int(profiled), torch.cuda.is_available()
step, waits, began = 0, 0, 0.0
activities = [ProfilerActivity.CUDA] if gpu else [ProfilerActivity.CPU]
profiler = profile(activities=[ProfilerActivity.CPU, *activities] if gpu else activities)
def showwarning(message, *_, **__):
    global waits
    waits += "synchroniz" in str(message)
warnings.showwarning = showwarning
def look(*_):
    global step, began
    step += 1
    if gpu and step in (counted, counted + 3):
        torch.cuda.set_sync_debug_mode("warn" if step == counted else "default")
    warnings.simplefilter("always" if step == counted else "ignore")
    if step == profiled:
        torch.cuda.synchronize() if gpu else None
        began = time.time()
        profiler.start()
    if step == profiled + 3:
        torch.cuda.synchronize() if gpu else None
        seconds = time.time() - began
        profiler.stop()
        averages = profiler.key_averages()
        kernels = [event for event in averages if str(event.device_type).endswith("CUDA" if gpu else "CPU")]
        time_of = lambda event: (event.self_device_time_total if gpu else event.self_cpu_time_total) / 1e6
        longest = sorted(kernels, key=time_of, reverse=True)[:10]
        told = {"seconds": seconds, "busy": sum(map(time_of, kernels)), "waits": waits / 3}
        told["longest"] = [(event.key, time_of(event), event.count) for event in longest]
        told["table"] = averages.table(sort_by="self_device_time_total" if gpu else "self_cpu_time_total", row_limit=10)
        open(file, "w").write(json.dumps(told))
register_optimizer_step_post_hook(look)
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def measure(figures: Figures, options: argparse.Namespace) -> None:
    common = LEAST if options.tiny else ["--size", "sd15", "--updates", "30", "--precision", "bf16"]
    arguments = train_options().parse_args([*common, "--workers", "1" if options.tiny else "4", "--only", "cached"])
    arguments.updates = 20 if options.tiny else 30
    marks = ("6", "12") if options.tiny else ("12", "20")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_base(folder / "base", arguments.size, options.device)
        make_dataset(folder / "ds", chosen(arguments))
        command = ways(arguments, folder, options.device == "cuda")["cached"](arguments.updates)
        subprocess.run(
            [sys.executable, "-c", LOOK, str(folder / "told"), *marks, *command],
            env=environment(HF_HUB_OFFLINE="1"),
            check=True,
        )
        told = json.loads((folder / "told").read_text())
    busy, update = told["busy"] / told["seconds"], told["seconds"] / 3
    figures.add(
        "an update", 1000 * update, "ms", f"{busy:.0%} of it something runs; {told['waits']:.1f} waits of the host"
    )
    for key, seconds, count in told["longest"]:
        figures.add(
            key[:28],
            1000 * seconds / 3,
            "ms",
            f"{seconds / told['busy']:.1%}, {count / 3:.0f} times an update",
            key=key,
        )
    commit_text(options.out / "profile.txt", told["table"])
    figures.say(
        f"nothing runs for {1000 * max(0.0, update * (1 - busy)):.1f} ms of an update; profile.txt has the table"
    )
