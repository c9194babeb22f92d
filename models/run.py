"""A training run's directory: checkpoints that survive a kill, metrics, and the finished model.

| entry                         | holds                                                                             |
|-------------------------------|-----------------------------------------------------------------------------------|
| `run.json`                    | the model's sizes and the recipe; a run goes on only under the ones it began with   |
| `metrics.jsonl`               | one line per optimizer step, one per validation                                     |
| `checkpoints/step-00000100/`  | a whole checkpoint in float32, and the optimizer's state; the newest two are kept   |
| `model/`                      | the finished model, as a rule in 16 bits, with the corpus's token counts            |

Knows files. The arithmetic is `models/training.py`'s.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from tokenizers import Tokenizer
from torch import Tensor

from models.checkpoint import load_model, save_checkpoint
from models.config import ModelConfig
from models.errors import CheckpointError, ConfigError
from models.evaluation import Evaluation
from models.recipe import Cadence, OptimizerName, Precision, TrainingConfig
from models.training import StepResult, Trainer
from paging.staging import remove_debris

RUN_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"
TRAINER_FILE = "trainer.safetensors"
MODEL_DIRECTORY = "model"
KEPT_CHECKPOINTS = 2

_CHECKPOINT_NAME = re.compile(r"step-(\d{8})")
_UNFINISHED_NAME = re.compile(r"\.(step-\d{8})\..+")


class TrainingRun:
    """A trainer and the directory that its work goes to."""

    def __init__(self, directory: Path, trainer: Trainer, *, tokenizer: Tokenizer | None) -> None:
        self.directory = directory
        self.trainer = trainer
        self.tokenizer = tokenizer

    @property
    def model_directory(self) -> Path:
        """Where the finished model goes."""
        return self.directory / MODEL_DIRECTORY

    def start(self) -> None:
        """Claim the directory for a new run; `CheckpointError` where a run is there already."""
        if (self.directory / RUN_FILE).exists():
            raise CheckpointError(f"{self.directory} holds a run already; resume it, or name another directory")
        with self._write_errors():
            self.directory.mkdir(parents=True, exist_ok=True)
            _replace_text(self.directory / RUN_FILE, json.dumps(self._description(), indent=2) + "\n")

    def resume(self) -> None:
        """Go on from the newest checkpoint, from the start where there is none yet.

        Raises `CheckpointError` where there is no run, `ConfigError` where it has another model or recipe.
        """
        stored = _read_description(self.directory)
        for part, values in self._description().items():
            there = stored[part]
            if changed := sorted(name for name in values if there.get(name) != values[name]):
                differences = ", ".join(f"{name} {there.get(name)!r} -> {values[name]!r}" for name in changed)
                raise ConfigError(f"the run at {self.directory} has another {part} ({differences}); start a new run")
        self._remove_debris()
        steps = self._checkpoints()
        self._restore(steps[-1] if steps else 0)
        self._cut_metrics()

    def train(
        self,
        cadence: Cadence,
        *,
        validate: Callable[[], Evaluation] | None = None,
        on_step: Callable[[StepResult], None] | None = None,
        on_validation: Callable[[Evaluation], None] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Train to the end or until `should_stop`, and save either way; return whether the end was reached."""
        trainer, saved_step = self.trainer, self.trainer.step_count
        with self._lock():
            while not trainer.is_done and not should_stop():
                result = trainer.step()
                self._add_metrics(result._asdict())
                if on_step:
                    on_step(result)
                if validate and (trainer.is_done or trainer.step_count % cadence.validation_steps == 0):
                    evaluation = validate()
                    line = {
                        "step": trainer.step_count,
                        "validation_perplexity": evaluation.perplexity,
                        "validation_bits_per_byte": evaluation.bits_per_byte,
                    }
                    self._add_metrics(line)
                    if on_validation:
                        on_validation(evaluation)
                if trainer.step_count % cadence.checkpoint_steps == 0:
                    self._save()
                    saved_step = trainer.step_count
            if saved_step != trainer.step_count:
                self._save()
        return trainer.is_done

    def finish(self, token_counts_V: Tensor, *, dtype: torch.dtype = torch.bfloat16) -> None:
        """Write the finished model, with the corpus's token counts (int64 [V]) for seeding a row cache."""

        def write_counts(directory: Path) -> None:
            (directory / "token_counts.safetensors").write_bytes(save({"token_counts": token_counts_V}))

        save_checkpoint(
            self.trainer.model,
            self.model_directory,
            dtype=dtype,
            tokenizer=self.tokenizer,
            replace=True,
            write_more=write_counts,
        )

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Keep other processes from training in this directory; the kernel forgets the lock when a process dies."""
        handle = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise CheckpointError(f"another process trains in {self.directory}; wait for it or end it") from error
            yield
        finally:
            os.close(handle)

    def _description(self) -> dict[str, dict[str, Any]]:
        return {
            "model": json.loads(self.trainer.model.config.to_json()),
            "recipe": dataclasses.asdict(self.trainer.config),
        }

    def _checkpoint(self, step: int) -> Path:
        return self.directory / "checkpoints" / f"step-{step:08d}"

    def _checkpoints(self) -> list[int]:
        """Return the steps that have a checkpoint, ascending; unfinished ones go by another name."""
        parent = self.directory / "checkpoints"
        entries = parent.iterdir() if parent.is_dir() else ()
        return sorted(int(match[1]) for entry in entries if (match := _CHECKPOINT_NAME.fullmatch(entry.name)))

    def _remove_debris(self) -> None:
        """Remove what a kill left of unfinished checkpoints: their steps may never be saved again."""
        parent = self.directory / "checkpoints"
        with self._write_errors():
            for entry in list(parent.iterdir()) if parent.is_dir() else ():
                if match := _UNFINISHED_NAME.fullmatch(entry.name):
                    remove_debris(parent / match[1])

    def _save(self) -> None:
        trainer = self.trainer

        def write_state(directory: Path) -> None:
            # Copied to the host, since safetensors refuses tensors that share memory across devices.
            state = {name: value.detach().cpu().contiguous() for name, value in trainer.optimizer_state().items()}
            try:
                save_file(state, directory / TRAINER_FILE, metadata={"step": str(trainer.step_count)})
            except SafetensorError as error:  # a full disk, for one
                raise CheckpointError(f"cannot write {directory / TRAINER_FILE}: {error}") from error
            with (directory / TRAINER_FILE).open("rb") as file:
                os.fsync(file.fileno())

        save_checkpoint(
            trainer.model,
            self._checkpoint(trainer.step_count),
            dtype=torch.float32,
            tokenizer=self.tokenizer,
            replace=True,
            write_more=write_state,
        )
        with self._write_errors():
            for step in self._checkpoints()[:-KEPT_CHECKPOINTS]:
                shutil.rmtree(self._checkpoint(step))

    def _restore(self, step: int) -> None:
        if step == 0:
            return
        directory = self._checkpoint(step)
        loaded = load_model(directory, device=self.trainer.device)
        with torch.no_grad():
            for mine, theirs in zip(self.trainer.model.parameters(), loaded.parameters(), strict=True):
                mine.copy_(theirs)
        try:
            with safe_open(directory / TRAINER_FILE, framework="pt") as file:
                # Copied, since the optimizer writes to its state and the file must stay as it is.
                state = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 not a mapping
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot read {directory / TRAINER_FILE}: {error}; remove {directory}") from error
        self.trainer.restore(step, state)

    def _add_metrics(self, values: dict[str, Any]) -> None:
        with self._write_errors(), (self.directory / METRICS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def _cut_metrics(self) -> None:
        """Drop lines of steps that were done after the checkpoint and will be done again."""
        path = self.directory / METRICS_FILE
        kept = []
        with self._write_errors():
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            for line in lines:
                try:
                    step = json.loads(line)["step"]
                except (ValueError, KeyError):
                    continue  # a kill can cut the last line short
                if step <= self.trainer.step_count:
                    kept.append(line + "\n")
            _replace_text(path, "".join(kept))

    @contextlib.contextmanager
    def _write_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(f"cannot write to the run at {self.directory}: {error}") from error


def read_run(directory: Path) -> tuple[ModelConfig, TrainingConfig]:
    """Return the model's sizes and the recipe that the run at `directory` began with, or raise `CheckpointError`."""
    stored = _read_description(directory)
    config = ModelConfig.from_dict(stored["model"], source=str(directory / RUN_FILE))
    recipe = stored["recipe"]
    try:
        words = {"optimizer": OptimizerName(recipe["optimizer"]), "precision": Precision(recipe["precision"])}
        return config, TrainingConfig(**recipe | words)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{directory / RUN_FILE} has another recipe than ours ({error}); start a new run"
        ) from error


def _read_description(directory: Path) -> dict[str, dict[str, Any]]:
    path = directory / RUN_FILE
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"no run to resume at {directory}: {error}") from error
    for part in ("model", "recipe"):
        if not isinstance(stored, dict) or not isinstance(stored.get(part), dict):
            raise CheckpointError(f"{path} does not describe a {part}; start a new run")
    # Parts of the recipe that earlier releases did not know were as their defaults say.
    defaults = {field.name: field.default for field in dataclasses.fields(TrainingConfig)}
    known = {name: value for name, value in defaults.items() if value is not dataclasses.MISSING}
    return {"model": stored["model"], "recipe": known | stored["recipe"]}


def _replace_text(path: Path, text: str) -> None:
    """Write a small file that is there whole or not at all. Raises `OSError`."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
