"""Several outputs of one request put together, as if the engine had taken one long step."""

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from server.engine.messages import ChoiceOutput, RequestOutput

_Item = TypeVar("_Item")


def merge_outputs(outputs: Sequence[RequestOutput]) -> RequestOutput:
    """Return one output that says what `outputs` (at least one, in order, of one request) say together."""
    if len(outputs) == 1:
        return outputs[0]
    by_choice: dict[int, list[ChoiceOutput]] = {}
    for output in outputs:
        for choice in output.choices:
            by_choice.setdefault(choice.choice, []).append(choice)
    return RequestOutput(
        request_id=outputs[0].request_id,
        choices=[_merge_choice(parts) for parts in by_choice.values()],
        prompt_logprobs=_only([output.prompt_logprobs for output in outputs]),
        num_cached_tokens=_only([output.num_cached_tokens for output in outputs]),
        timing=_only([output.timing for output in outputs]),
        is_finished=outputs[-1].is_finished,
        error=_only([output.error for output in outputs]),
        memory=outputs[-1].memory,
    )


def _merge_choice(parts: Sequence[ChoiceOutput]) -> ChoiceOutput:
    if len(parts) == 1:
        return parts[0]
    return msgspec.structs.replace(
        parts[-1],  # the last one says how the choice ended
        token_ids=_joined([part.token_ids for part in parts]),
        logprobs=_joined([part.logprobs for part in parts]),
        tiers=_joined([part.tiers for part in parts]),
    )


def _joined(parts: Sequence[Sequence[_Item] | None]) -> list[_Item] | None:
    said = [part for part in parts if part is not None]
    return [item for part in said for item in part] if said else None


def _only(values: Sequence[_Item | None]) -> _Item | None:
    """Return the first value that was said."""
    return next((value for value in values if value is not None), None)
