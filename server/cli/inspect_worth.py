"""`tolbooth inspect layers` and `alpha`: what each layer's memory, and all of it, is worth on a text."""

import dataclasses
from typing import TYPE_CHECKING, Any

from models.analysis.probes import CHANCE, Probe, ProbeText
from models.analysis.stored_matrices import StoredMatrices
from models.bundled import DEFAULT_MODEL
from models.tokenizer import encode_batch, end_of_text_id
from server.cli.inspected import BesideOption, Inspected, InspectedText, TextOption
from server.cli.options import DeviceOption, JsonOption, ModelArgument
from server.cli.output import print_facts, print_json, print_table
from server.engine.choices import Device, Memory
from server.progress import Progress

if TYPE_CHECKING:
    from server.engine.loading import LoadedModel

_EXAMPLES = 3
_EXAMPLE_TOKENS = 24


def layers(
    model: ModelArgument = None,
    *,
    text: TextOption,
    beside: BesideOption = None,
    device: DeviceOption = Device.AUTO,
    json: JsonOption = False,
) -> None:
    """Measure the perplexity of a text without each layer's memory; of a dense model, without each layer's FFN.

    Example: tolbooth inspect layers demo --beside demo-dense --text book.txt
    """
    sample = InspectedText(text)
    with Progress() as progress:
        models = worths(model, beside, sample, device, progress)
        found = [each for worth in models for each in worth.importance()]
    if json:
        print_json({"bytes": sample.measured.num_bytes, "importance": found})
        return
    most = max(len(each["without"]) for each in found)
    rows = [
        [
            f"{each['model']}, {each['part']}",
            f"{each['whole']:.2f}",
            *(f"{without:.2f}" for without in each["without"]),
            *[""] * (most - len(each["without"])),
        ]
        for each in found
    ]
    print_table(["perplexity", "whole", *(f"no layer {index}" for index in range(most))], rows)


def alpha(
    model: ModelArgument = None,
    *,
    text: TextOption,
    beside: BesideOption = None,
    device: DeviceOption = Device.AUTO,
    json: JsonOption = False,
) -> None:
    """Scale the memory from 1.0 down to 0.5, and measure perplexity and probes that are made from the text.

    Example: tolbooth inspect alpha demo --beside demo-flex3 --text book.txt
    """
    sample = InspectedText(text)
    with Progress() as progress:
        models = worths(model, beside, sample, device, progress)
        found = [each for worth in models for each in worth.alpha()]
    probes = [{"model": worth.name, "probes": worth.probe_facts()} for worth in models]
    if json:
        print_json({"bytes": sample.measured.num_bytes, "chance": CHANCE, "alpha": found, "probes": probes})
        return
    headers = ["", *(f"{point['alpha']:.1f}" for point in found[0]["points"])]
    rows = []
    for each in found:
        label = f"{each['model']}, {each['part']}"
        rows.append([f"{label}: perplexity", *(f"{point['perplexity']:.2f}" for point in each["points"])])
        rows += [
            [f"{label}: {name}", *(f"{point['accuracy'][name]:.1%}" for point in each["points"])]
            for name in each["points"][0]["accuracy"]
        ]
    print_table(headers, rows)
    print_facts({"\nchance": f"{CHANCE:.0%} for every probe"})


class Worth:
    """Measurements of one model on one text; it is loaded when the first is asked for."""

    def __init__(self, name: str, sample: InspectedText, device: Device, progress: Progress) -> None:
        self.inspected = Inspected.find(name)
        self.name = name
        self._sample = sample
        self._device = device
        self._progress = progress
        self._probes: list[Probe] | None = None

    @property
    def probes(self) -> list[Probe]:
        """Questions in this model's tokens; none of a sort for which the text is too short."""
        if self._probes is None:
            tokenizer = self.inspected.tokenizer
            documents = encode_batch(tokenizer, self._sample.learned.documents)
            self._probes = ProbeText(documents, self.inspected.tokens, end_of_text_id(tokenizer)).probes()
        return self._probes

    def probe_facts(self) -> list[dict[str, Any]]:
        """Return what is said of the probes, with examples."""
        return [
            {
                "name": probe.name,
                "stands_for": probe.stands_for,
                "questions": len(probe.questions),
                "examples": [self._example(probe, index) for index in range(_EXAMPLES)],
            }
            for probe in self.probes
        ]

    def importance(self) -> list[dict[str, Any]]:
        """Return the importance of layers, for each part that the model has."""
        from models.analysis import ablation  # noqa: PLC0415 loads torch
        from models.evaluation import EvaluationText  # noqa: PLC0415 loads torch

        with self._load() as loaded:
            text = EvaluationText.from_text(self._sample.measured.content, self.inspected.tokenizer)
            measured = [
                ablation.layer_importance(
                    loaded.model,
                    loaded.rows,
                    text,
                    part,
                    on_progress=self._progress.phase(f"{self.name} without each layer's {part}"),
                )
                for part in ablation.parts_of(self.inspected.config)
            ]
        return [{**self._head(each.part), "whole": each.whole, "without": each.without_L} for each in measured]

    def alpha(self) -> list[dict[str, Any]]:
        """Return the sweep over alpha, of the part that the paper scales."""
        from models.analysis import ablation  # noqa: PLC0415 loads torch
        from models.evaluation import EvaluationText  # noqa: PLC0415 loads torch

        with self._load() as loaded:
            text = EvaluationText.from_text(self._sample.measured.content, self.inspected.tokenizer)
            part = ablation.parts_of(self.inspected.config)[0]
            told = self._progress.phase(f"{self.name} at each alpha")
            points = ablation.alpha_sweep(loaded.model, loaded.rows, text, self.probes, part, on_progress=told)
        return [{**self._head(part), "points": [dataclasses.asdict(point) for point in points]}]

    def _load(self) -> "LoadedModel":
        from server.engine.loading import load  # noqa: PLC0415 loads torch

        directory, config = self.inspected.directory, self.inspected.config
        memory = None
        if config.has_memory and "model.layers.0.memory.up_proj.weight" in StoredMatrices(directory):
            memory = Memory.COMPUTED  # no table is needed where the FFNs are at hand
        return load(directory, memory=memory, device=self._device, on_progress=self._progress.update)

    def _head(self, part: str) -> dict[str, str]:
        return {"model": self.name, "kind": self.inspected.config.model_type, "part": part}

    def _example(self, probe: Probe, index: int) -> dict[str, Any]:
        question = probe.questions[index * len(probe.questions) // _EXAMPLES]
        tail = b"".join(self.inspected.tokens[token_id] for token_id in question.context[1:][-_EXAMPLE_TOKENS:])
        words = [self.inspected.word(token_id) for token_id in question.choices]
        answer = words.pop(question.answer)
        return {"context": tail.decode(errors="replace"), "answer": answer, "wrong": words}


def worths(
    model: str | None, beside: list[str] | None, sample: InspectedText, device: Device, progress: Progress
) -> list[Worth]:
    """Return the models to measure; one that is not there raises `CheckpointError` before any is measured."""
    return [Worth(name, sample, device, progress) for name in [model or DEFAULT_MODEL, *(beside or [])]]
