"""`tolbooth bench engine`: how fast a model of yours decodes and takes prompts in, without HTTP."""

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from models.bundled import DEFAULT_MODEL, resolve_model
from models.config import ModelConfig
from models.errors import ConfigError
from server.cli import size_ids
from server.cli.bench_options import RepetitionsOption, SeedOption, confidence_text, interval_text, parse_counts
from server.cli.options import JsonOption, ModelArgument
from server.cli.output import print_facts, print_json, print_table
from server.cli.serve_options import with_engine_options
from server.engine.choices import Memory
from server.engine.config import DEVICE_BUDGETS, EngineConfig
from server.progress import Progress
from server.settings import resolve_settings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from server.engine.engine import Engine
    from server.measuring.engine_figures import Figure

_MOST_STREAMS = 1024
_MOST_TOKENS = 1_000_000
_MADE_UP_IDS = 1 << 18
_WARM_IDS = 50_000
_PAGED_ALONE = (*DEVICE_BUDGETS, "tol_host_bytes", "tol_storage")
_TIERS = ("memory", "device tier", "host tier", "storage")


@with_engine_options
def bench_engine(
    model: ModelArgument = None,
    *,
    streams: Annotated[
        str, typer.Option(help="Streams that decode at once, such as 1,8,32; `none` for none.")
    ] = "1,8,32",
    prefill: Annotated[
        str | None,
        typer.Option(help="Lengths of prompts, such as 128,512; `none` for none.", show_default="512, or what fits"),
    ] = None,
    context: Annotated[int, typer.Option(min=1, max=_MOST_TOKENS, help="Tokens of a stream before it decodes.")] = 128,
    tokens: Annotated[int, typer.Option(min=1, max=_MOST_TOKENS, help="Tokens that each stream decodes.")] = 128,
    repetitions: RepetitionsOption = 5,
    compare: Annotated[
        list[Memory] | None,
        typer.Option(help="Another memory to measure beside it, in turns; again for more.", show_default=False),
    ] = None,
    text: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Read this UTF-8 text; give it again for more files.")
    ] = None,
    trace: Annotated[Path | None, typer.Option(metavar="IDS.npy", help="Read these token ids instead.")] = None,
    seed: SeedOption = 0,
    json: JsonOption = False,
    flags: dict[str, Any],
) -> None:
    """Measure tokens per second of decoding and of taking prompts in, without HTTP.

    Every stream samples in full and then takes the next token of the text; without a text, ids are made up. Beside
    each figure stand the miss rate and the share of the bandwidth floor.

    Example: tolbooth bench engine demo --tol-device-fraction 0.1 --compare resident --text book.txt
    """
    if text and trace is not None:
        raise ConfigError("there are two texts; give either --text or --trace")
    directory = resolve_model(model)
    config = ModelConfig.load(directory)
    counts = parse_counts(streams, option="--streams", most=_MOST_STREAMS)
    longest = flags.get("max_model_len") or config.max_position_embeddings
    default = f"{min(512, longest - 1) or 'none'}"
    lengths = parse_counts(default if prefill is None else prefill, option="--prefill", most=_MOST_TOKENS)
    _check_lengths(counts, lengths, context=context, tokens=tokens, longest=longest)
    arms = _arms(_settings(directory, counts, flags), compare or [], config)

    from server.engine.starting import start_engine  # noqa: PLC0415 loads torch
    from server.measuring.engine_figures import EngineFigures, Figure  # noqa: PLC0415 loads torch
    from server.measuring.floor import read_bandwidth  # noqa: PLC0415 loads torch
    from server.measuring.streams import Streams  # noqa: PLC0415 loads torch

    with ExitStack() as stack:
        progress = stack.enter_context(Progress())
        ids, source = _read_ids(directory, config, text or [], trace, seed, progress)
        engines: dict[str, Engine] = {}
        for name, its in arms.items():
            engines[name] = start_engine(its, progress.update)
            stack.callback(engines[name].close)
        readers = {name: Streams(engine, ids) for name, engine in engines.items()}
        warm_ids = min(_WARM_IDS, len(ids) // 2)
        for reader in readers.values():
            reader.warm(warm_ids, num_streams=max(counts, default=1), on_progress=progress.phase("warming the rows"))
        bandwidth = read_bandwidth(next(iter(engines.values())).runner.device)
        figures_of = EngineFigures(
            readers,
            repetitions=repetitions,
            bandwidth=bandwidth,
            warm_ids=warm_ids,
            on_progress=lambda test: lambda done, total, arm: progress.update(f"{test}: {arm}", done, total),
        )
        figures: list[Figure] = []
        for count in counts:
            figures += figures_of.decode(count, context=context, num_tokens=tokens)
        for length in lengths:
            figures += figures_of.prefill(length)
        facts = {
            "model": f"{model or DEFAULT_MODEL}, {_device(engines)}",
            "ids": f"{source}; {warm_ids:,} of them seen before",
            "sampling": "temperature 0.8, top_k 50, top_p 0.95, then the text's token",
            **{name: _tiers(engine) for name, engine in engines.items()},
            "bandwidth": f"{bandwidth / 1e9:.1f} GB/s read",
        }
    if json:
        print_json(
            {
                **facts,
                "bandwidth_bytes_per_second": bandwidth,
                "repetitions": repetitions,
                "figures": [dataclasses.asdict(figure) for figure in figures],
            }
        )
        return
    print_facts(facts)
    typer.echo()
    _print_figures(figures)
    typer.echo("\n" + confidence_text(figures[0].tokens_per_second, repetitions))


def _check_lengths(counts: Sequence[int], lengths: Sequence[int], *, context: int, tokens: int, longest: int) -> None:
    if not counts and not lengths:
        raise ConfigError("nothing is to be measured; give --streams or --prefill")
    if counts and context + tokens > longest:
        raise ConfigError(
            f"--context {context} and --tokens {tokens} are longer than the model's {longest}; lower one of them"
        )
    if lengths and max(lengths) >= longest:
        raise ConfigError(f"--prefill has {max(lengths)}; the model takes {longest} tokens, one of them generated")


def _settings(directory: Path, counts: Sequence[int], flags: Mapping[str, Any]) -> EngineConfig:
    """Return the first arm's configuration: what was given, and lanes for all streams."""
    most = max(counts, default=1)
    if (lanes := flags.get("max_num_seqs", most)) < most:
        raise ConfigError(f"--streams has {most}, --max-num-seqs {lanes}; leave out --max-num-seqs")
    ours: dict[str, Any] = {
        "max_num_seqs": lanes,
        "enable_prefix_caching": False,  # a prompt that was taken in before would be none
        "keep_hot_set": False,
    }
    if lanes > 512:
        ours["max_num_batched_tokens"] = lanes
    settings = resolve_settings(flags={**ours, **flags}, environment={}, file=None, default_model=str(directory))
    return settings.engine


def _arms(first: EngineConfig, others: Sequence[Memory], model: ModelConfig) -> dict[str, EngineConfig]:
    """Return the engines' configurations by name; options of paging are the paged one's alone."""
    if not model.has_memory:
        if others:
            raise ConfigError("a dense model has no memory to compare with another; leave out --compare")
        return {"dense": first}
    memory = first.memory or Memory.PAGED
    arms = {str(memory): first}
    for other in others:
        if str(other) in arms:
            raise ConfigError(f"{other} is measured once; leave out --compare {other}")
        left_out: dict[str, Any] = {} if other is Memory.PAGED else dict.fromkeys(_PAGED_ALONE)
        if other is Memory.COMPUTED:
            left_out["table"] = None
        arms[str(other)] = msgspec.structs.replace(first, memory=other, **left_out)
    return arms


def _read_ids(  # noqa: PLR0917 all that ids may come from
    directory: Path, config: ModelConfig, text: Sequence[Path], trace: Path | None, seed: int, progress: Progress
) -> "tuple[npt.NDArray[np.integer[Any]], str]":
    """Return the ids that streams read, and what they are."""
    from models.tokenizer import TOKENIZER_FILE, load_tokenizer  # noqa: PLC0415 loads tokenizers
    from server.measuring.made_up_ids import made_up_ids  # noqa: PLC0415 loads numpy

    if trace is not None:
        ids = size_ids.read_trace(trace, vocab_size=config.vocab_size)
        return ids, f"{len(ids):,} of the trace {trace}"
    if text:
        tokenizer = load_tokenizer(directory / TOKENIZER_FILE)
        reading = progress.phase("encoding the text")
        encoded = size_ids.encode_text(text, tokenizer, vocab_size=config.vocab_size, on_progress=reading)
        return encoded, f"{len(encoded):,} of the text {', '.join(map(str, text))}"
    return made_up_ids(directory, vocab_size=config.vocab_size, count=_MADE_UP_IDS, seed=seed)


def _device(engines: "Mapping[str, Engine]") -> str:
    info = next(iter(engines.values())).info
    return f"{info.num_parameters:,} parameters of the backbone, {info.dtype}, {info.device}"


def _tiers(engine: "Engine") -> str:
    """Say where an engine's rows are, as granted."""
    granted = engine.info.granted
    found = [f"{name}: {granted[name]}" for name in _TIERS if name in granted]
    return "; ".join(found)


def _print_figures(figures: "Sequence[Figure]") -> None:
    rows = [
        [
            f"{figure.test}, {figure.streams} at once" if figure.test.startswith("tg") else figure.test,
            figure.arm,
            f"{figure.context:,.0f}",
            f"{figure.tokens_per_second.median:,.1f}",
            interval_text(figure.tokens_per_second),
            f"{figure.milliseconds:,.2f}",
            _share(figure.miss_rate),
            _share(figure.floor_share),
            f"{figure.ratio.median:.3f}",
        ]
        for figure in figures
    ]
    headers = [
        "test",
        "memory",
        "context",
        "tokens/s",
        "interval",
        "ms",
        "miss rate",
        "of floor",
        f"/ {figures[0].arm}",
    ]
    print_table(headers, rows)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
