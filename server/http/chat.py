"""`POST /v1/chat/completions`."""

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.http.answer import Answer
from server.http.chat_form import ChatForm
from server.http.form import Asked
from server.http.generation import Generation
from server.http.limits import check_params, check_sequences
from server.http.neutral import check_chat
from server.http.openapi import describe
from server.http.prompts import TokenPrompt, encode_messages, fit
from server.http.record import record_of
from server.http.requests import ChatRequest
from server.http.responses import ChatCompletion
from server.http.sampling import chat_params
from server.http.service import Service, new_id, now


def chat_router(service: Service) -> APIRouter:
    """Return the route."""
    router = APIRouter()

    @router.post("/v1/chat/completions", **describe("Continue a conversation.", ChatRequest, ChatCompletion))
    async def chat(request: Request) -> Response:
        asked = await service.read(request, ChatRequest)
        model_name = await service.choose_model(asked.model)
        check_chat(asked)
        params = chat_params(asked)
        check_params(params, service.config, vocab_size=service.model.vocab_size, logprobs_field="top_logprobs")
        check_sequences(1, params.n, service.config)
        ids = await encode_messages(
            asked.messages,
            service.model,
            add_special_tokens=bool(asked.add_special_tokens),
            add_generation_prompt=asked.add_generation_prompt is not False,
        )
        if service.config.log_prompts:
            record_of(request.scope).prompts = [msgspec.to_builtins(message) for message in asked.messages]
        prompt, max_tokens = fit(
            TokenPrompt(ids, None),
            params,
            truncate_to=asked.truncate_prompt_tokens,
            max_model_len=service.max_model_len,
            has_default=params.max_tokens is None,
            param="messages",
        )
        completion_id = new_id("chatcmpl")
        prompts = [(prompt, msgspec.structs.replace(params, max_tokens=max_tokens))]
        generation = Generation(service.engine, service.model, service.engine_requests(asked, completion_id, prompts))
        wire = Asked.of(asked, id=completion_id, created=now(), model_name=model_name, num_logprobs=params.logprobs)
        form = ChatForm(wire, service.model, generation)
        return Answer(form, timeout=service.config.request_timeout, metrics=service.metrics.requests)

    return router
