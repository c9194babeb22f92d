"""`POST /v1/completions`."""

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.engine.params import SamplingParams
from server.http.answer import Answer
from server.http.completion_form import CompletionForm
from server.http.form import Asked
from server.http.generation import Generation
from server.http.limits import check_ids, check_params, check_sequences
from server.http.neutral import check_completion
from server.http.openapi import describe
from server.http.prompts import TokenPrompt, encode_prompts, fit, separate_prompts
from server.http.record import record_of
from server.http.requests import CompletionRequest
from server.http.responses import Completion
from server.http.sampling import completion_params
from server.http.service import Service, new_id, now


def completions_router(service: Service) -> APIRouter:
    """Return the route."""
    router = APIRouter()

    @router.post("/v1/completions", **describe("Continue texts.", CompletionRequest, Completion))
    async def complete(request: Request) -> Response:
        asked = await service.read(request, CompletionRequest)
        model_name = await service.choose_model(asked.model)
        check_completion(asked)
        params = completion_params(asked)
        check_params(params, service.config, vocab_size=service.model.vocab_size, logprobs_field="logprobs")
        prompts = await _token_prompts(service, asked, params)
        if service.config.log_prompts:
            record_of(request.scope).prompts = [list(p.ids) if p.text is None else p.text for p, _ in prompts]
        completion_id = new_id("cmpl")
        generation = Generation(service.engine, service.model, service.engine_requests(asked, completion_id, prompts))
        form = CompletionForm(
            Asked.of(asked, id=completion_id, created=now(), model_name=model_name, num_logprobs=params.logprobs),
            service.model,
            generation,
            [prompt for prompt, _ in prompts],
            echo=bool(asked.echo),
        )
        return Answer(form, timeout=service.config.request_timeout, metrics=service.metrics.requests)

    return router


async def _token_prompts(
    service: Service, asked: CompletionRequest, params: SamplingParams
) -> list[tuple[TokenPrompt, SamplingParams]]:
    """Return each prompt as ids that fit the context, with the parameters that fit what is left of it."""
    texts = separate_prompts(asked.prompt)
    check_sequences(len(texts), params.n, service.config)
    for text in texts:
        if not isinstance(text, str):
            check_ids("prompt", text, service.model.vocab_size)
    encoded = await encode_prompts(
        texts, service.model.tokenizer, add_special_tokens=asked.add_special_tokens is not False
    )
    prompts = []
    for each in encoded:
        prompt, max_tokens = fit(
            each,
            params,
            truncate_to=asked.truncate_prompt_tokens,
            max_model_len=service.max_model_len,
            has_default=asked.max_tokens is None,
            param="prompt",
        )
        prompts.append((prompt, msgspec.structs.replace(params, max_tokens=max_tokens)))
    return prompts
