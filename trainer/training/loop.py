"""The training loop: updates, and between them a line of metrics, a validation, a checkpoint."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from condprep import __version__
from condprep.images.decode import decode
from trainer.data.loader import Loader
from trainer.evaluation.monitor import BLACK, best_so_far, black_remark, fidelity_remark, is_settled, unknown_remark
from trainer.inference.checkpoint_folder import Checkpoint
from trainer.inference.export import condition_record, save_controlnet
from trainer.recipe.layout import CONDITION, FAITHFUL, TRAINING
from trainer.training.journal import Journal, Meter
from trainer.training.optimizer import learning_rate
from trainer.training.plan import total_updates
from trainer.training.state import read_state
from trainer.training.step import Learner, StepResult
from trainer.training.stop import Stop
from trainer.training.validate import Validator, comparable, looked_at, losses_remark
from trainer.training.writer import CheckpointWriter
from trainer.types import Measured, Say, ShowProgress


@dataclass
class TrainingLoop:
    """The updates from where the last run ended. Every process has one and does the same, but the main one writes."""

    learner: Learner
    loader: Loader
    validator: Validator
    writer: CheckpointWriter
    journal: Journal
    say: Say
    progress: ShowProgress
    measured: Measured = lambda _: None
    update: int = 0  # of the last one that is done
    metrics: dict[str, float] = field(default_factory=dict)  # the newest of each
    stop: Stop = field(default_factory=Stop)
    meter: Meter = field(default_factory=Meter)

    def __post_init__(self) -> None:
        self.recipe, self.accelerator = self.learner.recipe, self.learner.accelerator
        self.folder, self.rows = Path(self.recipe.save.dir), len(self.loader.split.rows)
        self.total = total_updates(self.recipe.train, self.rows)
        self.learner.accumulate(self.loader.passes)
        self.saved = self.validated = -1  # the update of the last checkpoint, and of the last validation

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from there."""
        self.learner.restore(read_state(checkpoint.path, self.learner.outline), checkpoint.update)
        self.loader.load_state_dict(checkpoint.manifest["position"])
        self.update = self.saved = checkpoint.update
        self.validated = checkpoint.manifest.get("validated", -1)
        before = checkpoint.manifest.get("looked_at", {})  # of an older version: it is not known
        self.metrics, notes = comparable(checkpoint.manifest["metrics"], before, self.looked_at)
        for note in notes:
            self.say(note)

    def run(self) -> bool:
        """Train, up to the last validation and checkpoint. False where a signal ended it early, after a checkpoint."""
        if self.update == 0 and self.recipe.eval.every:
            self.validate()
        with self.stop.listening(self.say), closing(iter(self.loader)) as loaded:
            batches = self.meter.timed(loaded)
            self.meter.reset()
            while self.update < self.total and not self.has_settled():
                rate = learning_rate(self.recipe.train, self.update + 1, self.total)
                step = self.learner.step(islice(batches, self.loader.passes), rate)
                self.record(step)
                if self.between_updates():
                    self.writer.wait()
                    return False
        self.finish()
        return True

    def record(self, step: StepResult) -> None:
        """Count an update that is done."""
        self.update += 1
        self.meter.add(step)
        self.metrics |= {"lr": self.learner.rate, "epoch": self.update * self.recipe.train.batch / self.rows}
        self.measured(self.metrics)
        self.progress("updates", self.update, self.total)

    def between_updates(self) -> bool:
        """Log, validate and save where it is due. True where the run has been asked to stop."""
        self.writer.check()
        due = self.update % self.recipe.log.every == 0
        if due:
            self.log()
        if self.recipe.eval.every and self.update % self.recipe.eval.every == 0:
            self.validate()
        stopped = self.stop.agreed(self.accelerator, now=due)
        if stopped or self.update % self.recipe.save.every == 0:
            self.save_checkpoint()
        return stopped

    def finish(self) -> None:
        """The last validation and the last checkpoint, where the last update has not had them yet."""
        if self.recipe.eval.every and self.validated < self.update:
            self.validate()
        if self.saved < self.update:
            self.save_checkpoint()
        self.writer.wait()

    def log(self) -> None:
        """A line of metrics. Raises TrainingStopped for a loss that is not finite: so nothing of it is ever saved."""
        if self.meter.keys:
            found = self.meter.read(self.accelerator)
            self.metrics |= found
            self.journal.write(self.update, {**found, "lr": self.metrics["lr"], "epoch": self.metrics["epoch"]})

    def validate(self) -> None:
        """Held-out losses, fidelity, pictures. The time that it takes is not the training's."""
        self.log()
        found = self.validator.validate(self.folder, self.update)
        self.validated = self.update
        if found.fidelity:
            self.record_fidelity(found.fidelity)
        if found.losses:
            self.metrics |= found.losses.metrics()
            self.journal.write(self.update, found.losses.metrics())
            self.say(losses_remark(found.losses, self.update, self.total))
        if found.grid and self.accelerator.is_main_process:
            self.journal.show(self.update, Image.fromarray(decode(found.grid.read_bytes()).rgb))
        self.meter.reset()

    def record_fidelity(self, fidelity: dict[str, float]) -> None:
        """Write down how pictures follow, and keep the weights that follow best."""
        self.journal.write(self.update, fidelity)
        follows = fidelity.get("fidelity")
        remark = unknown_remark(fidelity, self.update)
        self.say(remark if follows is None else fidelity_remark(self.metrics, follows, self.update))
        if dark := fidelity.get(BLACK):
            self.say(black_remark(dark, self.update))
        best = best_so_far(fidelity, self.metrics, self.update)
        self.metrics |= fidelity | best
        if best:
            weights = self.learner.result("best")
            if self.accelerator.is_main_process:
                save_controlnet(self.folder / FAITHFUL, self.learner.outline, weights)
        if self.has_settled():
            self.say(
                f"fidelity has not risen for {self.recipe.eval.stop_when} validations: this is the end. The weights of"
                f" update {self.metrics['best_update']:,.0f}, which follow best, are in {self.folder / FAITHFUL}"
            )

    def has_settled(self) -> bool:
        """Whether the run has gone on for long enough without following better."""
        return is_settled(self.metrics, self.update, self.recipe.eval.stop_when, self.recipe.eval.every)

    def save_checkpoint(self) -> None:
        """All that the next update depends on. Raises TrainingStopped where it, or the one before, cannot be written."""
        self.log()
        self.journal.sync()
        state = self.learner.state()
        if self.accelerator.is_main_process:
            records = {TRAINING: self.training, CONDITION: self.condition}
            self.writer.save(self.update, state, self.manifest(), records)
        self.saved = self.update
        self.meter.reset()

    @property
    def looked_at(self) -> dict[str, Any]:
        """By which it is known whether two validations compare."""
        return looked_at(self.recipe, self.validator.split)

    @property
    def training(self) -> dict[str, Any]:
        """What a result, and a checkpoint, says of its training."""
        recipe, base = self.recipe, self.learner.base
        return {
            "model": recipe.model.model_dump(mode="json"),
            "text": recipe.text.model_dump(mode="json"),
            "family": base.family,
            "prediction_type": base.prediction_type,
            "updates": self.update,
            "batch": recipe.train.batch,
            "resolution": recipe.data.resolution,
            "processes": self.accelerator.num_processes,
            "sharded": self.learner.sharded,
            "rows": self.rows,
            "dataset": self.loader.split.fingerprint,
            "metrics": dict(self.metrics),
            "condprep": __version__,
        }

    @cached_property
    def condition(self) -> dict[str, Any]:
        """What its conditions are, and how to make one."""
        data, rows = self.recipe.data, self.loader.split.rows
        return condition_record(data.path, rows.conditions, rows.kinds, data.resolution)

    def manifest(self) -> dict[str, Any]:
        """What a checkpoint says of the run."""
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "dataset": self.loader.split.fingerprint,
            "base": dict(self.learner.base.fingerprints),
            "position": self.loader.state_dict(),
            "lines": self.journal.lines,
            "validated": self.validated,
            "looked_at": self.looked_at,
            "metrics": dict(self.metrics),
            "condprep": __version__,
        }

    def close(self) -> None:
        """Checkpoint and trackers write what they still have."""
        self.writer.close()
        self.journal.close()
