"""What lies where in a run's folder, `save.dir`: the names that training writes, and inference and evaluation read.

output/config.json  diffusion_pytorch_model.safetensors   the ControlNet: the averaged weights, where there are any
output/raw/  ema/                                         the last weights, and the averaged ones
output/faithful/                                          those that followed best, where fidelity was measured
output/condition.json                                     what its conditions are and how to make one
output/training.json  recipe.toml                         what it was trained from, on and with
output/README.md                                          the model card
output/metrics.jsonl  samples/  logs/                     what was measured while training, and the pictures
output/checkpoints/00000500/                              from which a run goes on: records, `raw`, `ema`, and the optimizer's state
output/start/                                             of a fork: the ControlNet that it began with
"""

RECIPE, CONDITION, TRAINING, CARD = "recipe.toml", "condition.json", "training.json", "README.md"
CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"  # of a ControlNet: diffusers' own names
RAW, EMA, FAITHFUL = "raw", "ema", "faithful"  # folders of ControlNets
METRICS, SAMPLES, LOGS = "metrics.jsonl", "samples", "logs"
CHECKPOINTS, LOCK = "checkpoints", ".lock"
START = "start"
