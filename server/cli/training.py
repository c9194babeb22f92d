"""What `tolbooth train` does: prepare data, make or load weights, train, and say where the model is."""

import dataclasses
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import typer
from tokenizers import Tokenizer

from models.batches import Batches
from models.checkpoint import load_model, open_checkpoint
from models.computed_rows import ComputedRows
from models.config import ModelConfig
from models.corpus import TokenShards
from models.errors import CheckpointError, ConfigError
from models.evaluation import Evaluation, EvaluationText, evaluate
from models.recipe import Cadence, Precision, TrainingConfig
from models.run import RUN_FILE, TrainingRun, read_run
from models.text import read_text
from models.tokenizer import TOKENIZER_FILE, end_of_text_id, vocab_size
from models.training import Trainer
from models.transformer import Transformer
from models.weights import FLOAT_DTYPES
from server.cli.architecture import Base, Sizes, build_config
from server.cli.interruption import Interruption
from server.cli.origin import ORIGIN_FILE, Origin
from server.cli.output import print_facts
from server.cli.training_data import TOKENS_DIRECTORY, check_sources, prepare_shards, prepare_tokenizer
from server.cli.training_display import TrainingDisplay
from server.directories import data_directory
from server.engine.choices import Device
from server.engine.loading import torch_device
from server.progress import Progress

_INTERRUPTED = 130
_ANY_VOCABULARY = 1 << 24


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asked for; what it left out is empty."""

    origin: Origin
    base: Base
    sizes: Sizes
    recipe: dict[str, Any]
    cadence: dict[str, int]
    device: Device
    threads: int | None


def start_run(request: Request, out: Path | None) -> None:
    """Train a new model in the directory `out`; in a new one among the user's data where it is None."""
    device = _place(request)
    check_sources(request.origin)
    if "max_tokens" not in request.recipe:
        raise ConfigError("say how long to train: --max-tokens N")
    if request.recipe.get("memory_only") and request.origin.init_from is None:
        raise ConfigError("memory_only trains a model's memory further; say which model's: --init-from MODEL")
    precision = Precision.BF16 if device.type == "cuda" else Precision.FP32
    recipe = TrainingConfig(**{"precision": precision} | request.recipe)
    cadence = Cadence(**request.cadence)
    base, sizes = _base(request), request.sizes
    wanted_vocab = sizes.vocab_size or (base.vocab_size if base else None)
    # Tried before the long work, so that what is wrong with the sizes is said at once.
    draft = build_config(base, sizes, vocab_size=wanted_vocab or _ANY_VOCABULARY, end_id=None)
    _check_length(recipe, draft)
    directory = out or data_directory() / "runs" / f"{draft.model_type}-{time.strftime('%Y%m%d-%H%M%S')}"
    _claim(directory)
    origin = dataclasses.replace(request.origin, cadence=dataclasses.asdict(cadence))
    origin.save(directory)
    with Progress() as progress:
        tokenizer = prepare_tokenizer(directory, origin, vocab_size=wanted_vocab, progress=progress)
    size = _model_vocabulary(request, base, tokenizer)
    end_id = None if tokenizer is None else end_of_text_id(tokenizer)
    config = build_config(base, sizes, vocab_size=size, end_id=end_id)
    session = _Session(
        directory=directory, origin=origin, config=config, recipe=recipe, tokenizer=tokenizer, device=device
    )
    session.train(cadence, resume=False)


def resume_run(request: Request, out: Path | None) -> None:
    """Go on with the run in the directory `out`; options given again must say what they said when it began."""
    if out is None:
        raise ConfigError("--resume needs the run's directory: --out DIR")
    device = _place(request)
    config, recipe = read_run(out)
    origin = Origin.load(out)
    origin.check_same(request.origin, out)
    base = request.base.load()
    if base is not None or request.sizes != Sizes():
        size = request.sizes.vocab_size or config.vocab_size
        config = build_config(base or config, request.sizes, vocab_size=size, end_id=config.eos_token_id)
    recipe = dataclasses.replace(recipe, **request.recipe)
    cadence = Cadence(**origin.cadence | request.cadence)
    with Progress() as progress:
        tokenizer = prepare_tokenizer(out, origin, vocab_size=config.vocab_size, progress=progress)
    session = _Session(directory=out, origin=origin, config=config, recipe=recipe, tokenizer=tokenizer, device=device)
    session.train(cadence, resume=True)


class _Session:
    """One go at a run, from prepared data to the finished model or an interruption."""

    def __init__(
        self,
        *,
        directory: Path,
        origin: Origin,
        config: ModelConfig,
        recipe: TrainingConfig,
        tokenizer: Tokenizer | None,
        device: torch.device,
    ) -> None:
        self.directory = directory
        self.recipe = recipe
        validation = _validation_text(origin, tokenizer)
        with Progress() as progress:
            shards = prepare_shards(directory, origin, tokenizer, progress)
        self.corpus = TokenShards.open(shards, vocab_size=config.vocab_size)
        batches = Batches(
            self.corpus,
            sequence_length=recipe.sequence_length,
            batch_size=recipe.micro_batch_size,
            seed=recipe.seed,
        )
        model = Transformer(config)
        if origin.init_from is None:
            model.init_weights(torch.Generator().manual_seed(recipe.seed))
        else:
            _load_weights(model, Path(origin.init_from))
        self.dtype = torch.bfloat16
        """In which the finished model is stored."""
        if recipe.memory_only and origin.init_from is not None:
            self.dtype = _only_dtype(Path(origin.init_from))
        trainer = Trainer(model.to(device), batches, recipe)
        self.run = TrainingRun(directory, trainer, tokenizer=tokenizer)
        self.validation = validation

    def train(self, cadence: Cadence, *, resume: bool) -> None:
        """Train to the end and finish the model; exit with code 130 where a signal asked to stop."""
        run, trainer = self.run, self.run.trainer
        if resume:
            run.resume()
        else:
            run.start()
        was_done = trainer.is_done
        with (
            TrainingDisplay(self.recipe, trainer.step_count) as display,
            Interruption("stopping after this step; once more stops at once, without saving") as interruption,
        ):
            config = trainer.model.config
            display.say(
                f"{config.model_type} of {config.total_params:,} parameters and {config.vocab_size:,} ids, "
                f"{self.corpus.num_tokens:,} tokens, {self.recipe.num_steps:,} steps on {trainer.device}, "
                f"in {self.directory}"
            )
            done = run.train(
                cadence,
                validate=self._validator(display),
                on_step=display.on_step,
                on_validation=display.on_validation,
                should_stop=lambda: interruption.requested,
            )
        if not done:
            command = f"tolbooth train --resume --out {shlex.quote(str(self.directory))}"
            sys.stderr.write(f"saved after step {trainer.step_count}; go on with: {command}\n")
            raise typer.Exit(_INTERRUPTED)
        if not was_done or not run.model_directory.exists():
            run.finish(torch.from_numpy(self.corpus.token_counts()), dtype=self.dtype)
        print_facts({"model": str(run.model_directory)})

    def _validator(self, display: TrainingDisplay) -> Callable[[], Evaluation] | None:
        text = self.validation
        if text is None:
            return None
        model = self.run.trainer.model

        def validate() -> Evaluation:
            rows = ComputedRows(model) if model.config.has_memory else None
            length = self.recipe.sequence_length
            return evaluate(model, rows, text, context_length=length, on_progress=display.validating())

        return validate


def _place(request: Request) -> torch.device:
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    return torch_device(request.device)


def _base(request: Request) -> ModelConfig | None:
    base = request.base.load()
    if base is None and request.origin.init_from is not None:
        return ModelConfig.load(Path(request.origin.init_from))
    return base


def _model_vocabulary(request: Request, base: ModelConfig | None, tokenizer: Tokenizer | None) -> int:
    """Return V: what was asked for; else a file's or a checkpoint's; else the tokenizer's, rather than a preset's."""
    known = vocab_size(tokenizer) if tokenizer is not None else None
    chosen = request.sizes.vocab_size
    if chosen is None and (request.base.preset is None or known is None):
        chosen = base.vocab_size if base else None
    size = chosen or known
    if size is None:
        raise ConfigError("the vocabulary's size is not known; give --vocab-size or --tokenizer")
    if known is not None and size < known:
        raise ConfigError(f"vocab_size is {size}; the tokenizer has {known} ids")
    return size


def _check_length(recipe: TrainingConfig, config: ModelConfig) -> None:
    if recipe.sequence_length > config.max_position_embeddings:
        raise ConfigError(
            f"sequence_length is {recipe.sequence_length}; the model's max_position_embeddings is "
            f"{config.max_position_embeddings}"
        )


def _claim(directory: Path) -> None:
    """Make sure that `directory` is free for a new run; what one that never began left behind is removed."""
    if (directory / RUN_FILE).exists():
        raise CheckpointError(f"{directory} holds a run already; go on with it (--resume), or name another directory")
    try:
        if (directory / ORIGIN_FILE).exists():
            (directory / TOKENIZER_FILE).unlink(missing_ok=True)
            if (directory / TOKENS_DIRECTORY).exists():
                shutil.rmtree(directory / TOKENS_DIRECTORY)
        elif directory.exists() and any(directory.iterdir()):
            raise CheckpointError(f"{directory} is not empty and holds no run; name another directory")
    except OSError as error:
        raise CheckpointError(f"cannot write to {directory}: {error}") from error


def _validation_text(origin: Origin, tokenizer: Tokenizer | None) -> EvaluationText | None:
    if not origin.valid_text:
        return None
    if tokenizer is None:
        raise ConfigError("validation needs a tokenizer; give --tokenizer FILE")
    return EvaluationText.from_text(read_text(list(map(Path, origin.valid_text))), tokenizer)


def _only_dtype(directory: Path) -> torch.dtype:
    """Return the number format of a checkpoint's tensors: in another one the backbone would not stay to the bit."""
    _, weights = open_checkpoint(directory)
    words = {spec.dtype for spec in weights.specs.values()}
    if len(words) != 1:
        raise ConfigError(
            f"memory_only keeps the backbone to the bit, and the tensors of {directory} are in several number formats; "
            "`tolbooth import` makes a copy in one"
        )
    return FLOAT_DTYPES[words.pop()]


def _load_weights(model: Transformer, directory: Path) -> None:
    """Copy a checkpoint's weights, whose sizes must be the model's."""
    theirs = dict(load_model(directory, dtype=torch.float32).named_parameters())
    mine = dict(model.named_parameters())
    differing = sorted(
        name
        for name in mine.keys() | theirs.keys()
        if name not in mine or name not in theirs or mine[name].shape != theirs[name].shape
    )
    if differing:
        raise ConfigError(
            f"the weights of {directory} do not fit the model asked for; {len(differing)} tensors differ, "
            f"the first is {differing[0]}: leave out the sizes to take the checkpoint's"
        )
    with torch.no_grad():
        for name, parameter in mine.items():
            parameter.copy_(theirs[name])
