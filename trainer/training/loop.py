"""A run, once everything is prepared: updates, a line of metrics now and then, validations, checkpoints, the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import SafetensorError

from condprep import __version__
from condprep.images.decode import decode
from condprep.runtime.files import commit_text
from trainer.data.loader import Loader
from trainer.data.source import Progress
from trainer.errors import TrainingStopped
from trainer.evaluation.watch import best_so_far, news, settled, unknown
from trainer.inference.export import condition_record, push, save_controlnet, save_result
from trainer.recipe.layout import FAITHFUL, RECIPE
from trainer.recipe.toml import dump_recipe
from trainer.training.checkpoint import Checkpoint, Checkpoints
from trainer.training.metrics import Journal, Meter
from trainer.training.optimizer import learning_rate
from trainer.training.plan import total_updates
from trainer.training.step import Learner
from trainer.training.stop import Stop
from trainer.training.validate import Validator, remark
from trainer.types import Batch

Say = Callable[[str], None]


@dataclass
class Run:
    """The updates from where the last run ended. Every process has one and does the same, but the main one writes."""

    learner: Learner
    loader: Loader
    validator: Validator
    checkpoints: Checkpoints
    journal: Journal
    say: Say
    progress: Progress
    update: int = 0  # of the last one that is done
    metrics: dict[str, float] = field(default_factory=dict)  # the newest of each
    stop: Stop = field(default_factory=Stop)

    def __post_init__(self) -> None:
        self.recipe, self.accelerator = self.learner.recipe, self.learner.accelerator
        self.folder, self.rows = Path(self.recipe.save.dir), len(self.loader.source.rows)
        self.total = total_updates(self.recipe.train, self.rows)
        self.passes = self.learner.share_out(self.loader.micro_batch)
        self.saved = self.looked = -1  # the update of the last checkpoint, and of the last validation
        self.meter = Meter()

    def restore(self, start: Checkpoint) -> None:
        """Go on from a checkpoint."""
        self.learner.load(start.path, start.update)
        self.loader.load_state_dict(start.manifest["position"])
        self.update = self.saved = start.update
        self.metrics = dict(start.manifest["metrics"])

    def go(self) -> bool:
        """Make the updates. False where a signal has ended them early, after a checkpoint."""
        if self.accelerator.is_main_process:
            commit_text(self.folder / RECIPE, dump_recipe(self.recipe))
        if self.update == 0 and self.recipe.eval.every:
            self._look()
        with self.stop.listening(self.say), closing(iter(self.loader)) as batches:
            self.meter = Meter()
            while self.update < self.total and not self._settled():
                self._learn(batches)
                if self._after():
                    return False
        return True

    def finish(self) -> None:
        """The last validation and checkpoint, and the result."""
        if self.recipe.eval.every and self.looked < self.update:
            self._look()
        if self.saved < self.update:
            self._save()
        if self.accelerator.is_main_process:
            self._export()
        self.accelerator.wait_for_everyone()

    def close(self) -> None:
        """The trackers write what they still have."""
        self.journal.close()

    def _learn(self, batches: Iterator[Batch]) -> None:
        """One update."""
        rate = learning_rate(self.recipe.train, self.update + 1, self.total)
        self.learner.set_rate(rate)
        for _ in range(self.passes):
            began = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - began
            losses, norm = self.learner.learn(batch)
            self.meter.add(batch.keys, losses, waited)
        if norm is not None:
            self.meter.add_norm(norm)
        self.update += 1
        self.metrics |= {"lr": rate, "epoch": self.update * self.recipe.train.batch / self.rows}
        self.progress("updates", self.update, self.total)

    def _after(self) -> bool:
        """What is due after this update. True where the run has been asked to stop."""
        due = self.update % self.recipe.log.every == 0
        if due:
            self._log()
        if self.recipe.eval.every and self.update % self.recipe.eval.every == 0:
            self._look()
        stopped = self.stop.agreed(self.accelerator, now=due)
        if stopped or self.update % self.recipe.save.every == 0:
            self._save()
        return stopped

    def _log(self) -> None:
        """A line of metrics. Raises TrainingStopped for a loss that is not finite: so nothing of it is ever saved."""
        if self.meter.keys:
            found = self.meter.read(self.accelerator)
            self.metrics |= found
            self.journal.write(self.update, {**found, "lr": self.metrics["lr"], "epoch": self.metrics["epoch"]})

    def _look(self) -> None:
        """Validate. The time that it takes is not the training's."""
        self._log()
        losses, path, fidelity = self.validator.look(self.folder, self.update)
        self.looked = self.update
        if fidelity:
            self._follow(fidelity)
        if losses:
            self.metrics |= losses.metrics()
            self.journal.write(self.update, losses.metrics())
            self.say(remark(losses, self.update, self.total))
        if path and self.accelerator.is_main_process:
            self.journal.show(self.update, Image.fromarray(decode(path.read_bytes()).rgb))
        self.meter = Meter()

    def _follow(self, fidelity: dict[str, float]) -> None:
        """Write down how pictures follow, and keep the weights that follow best."""
        self.journal.write(self.update, fidelity)
        follows = fidelity.get("fidelity")
        self.say(unknown(self.update) if follows is None else news(self.metrics, follows, self.update))
        best = best_so_far(fidelity, self.metrics, self.update)
        self.metrics |= fidelity | best
        if best and self.accelerator.is_main_process:
            save_controlnet(self.folder / FAITHFUL, self.learner.controlnet, self.learner.weights("best"))
        if self._settled():
            self.say(
                f"fidelity has not risen for {self.recipe.eval.stop_when} validations: this is the end. The weights of"
                f" update {self.metrics['best_update']:,.0f}, which follow best, are in {self.folder / FAITHFUL}"
            )

    def _settled(self) -> bool:
        """Whether the run has gone on for long enough without following better."""
        settings = self.recipe.eval
        return settled(self.metrics, self.update, settings.stop_when, settings.every)

    def _save(self) -> None:
        """A checkpoint. Raises TrainingStopped where it cannot be written; the one before stays."""
        self._log()
        partial, main = self.checkpoints.partial(self.update), self.accelerator.is_main_process
        try:
            if main:
                self.checkpoints.begin(self.update)
            self.accelerator.wait_for_everyone()
            self.learner.save(partial)
            self.accelerator.wait_for_everyone()
            if main:
                self.checkpoints.commit(self.update, self._state())
        except (OSError, RuntimeError, SafetensorError) as error:  # what a full disk is to torch and to safetensors
            self.checkpoints.abandon()
            raise TrainingStopped(
                f"the checkpoint of update {self.update:,} could not be written: {str(error).splitlines()[0]}. Make room;"
                " the checkpoints before it are whole, and the same command goes on from the newest"
            ) from error
        self.accelerator.wait_for_everyone()
        self.saved = self.update
        self.meter = Meter()

    def _state(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "dataset": self.loader.source.fingerprint,
            "position": self.loader.state_dict(),
            "metrics": self.metrics,
            "condprep": __version__,
        }

    def _export(self) -> None:
        recipe, source = self.recipe, self.loader.source
        training = {
            "model": recipe.model.model_dump(mode="json"),
            "family": self.learner.base.family,
            "updates": self.update,
            "batch": recipe.train.batch,
            "rows": self.rows,
            "dataset": source.fingerprint,
            "metrics": self.metrics,
            "condprep": __version__,
        }
        condition = condition_record(
            Path(recipe.data.path), source.rows.column, source.rows.kind, recipe.data.resolution
        )
        average = self.learner.weights("best") if recipe.ema.enabled else None
        save_result(self.folder, self.learner.controlnet, self.learner.weights("raw"), average, training, condition)
        self.say(f"the ControlNet is in {self.folder}")
        if recipe.save.push_to_hub:
            self.say(f"pushed to {push(self.folder, recipe.save.push_to_hub)}")
