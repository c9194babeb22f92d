"""`POST /tokenize` and `/detokenize`: text to token ids and back, as the model's endpoints do it."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.http.errors import invalid
from server.http.limits import check_ids
from server.http.openapi import describe
from server.http.prompts import encode_messages, encode_prompts
from server.http.requests import DetokenizeRequest, TokenizeRequest
from server.http.responses import Text, Tokens
from server.http.service import Service, json_response


def tokenize_router(service: Service) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    @router.post("/tokenize", **describe("Return a text's token ids.", TokenizeRequest, Tokens))
    async def tokenize(request: Request) -> Response:
        asked = await service.read(request, TokenizeRequest)
        service.model_name(asked.model)
        if (asked.prompt is None) == (asked.messages is None):
            raise invalid("give either prompt or messages", param="prompt")
        if asked.messages is not None:
            ids = await encode_messages(
                asked.messages,
                service.model,
                add_special_tokens=bool(asked.add_special_tokens),
                add_generation_prompt=asked.add_generation_prompt is not False,
            )
        else:
            if asked.add_generation_prompt is not None:
                raise invalid("add_generation_prompt is only for messages", param="add_generation_prompt")
            assert asked.prompt is not None
            (prompt,) = await encode_prompts(
                [asked.prompt], service.model.tokenizer, add_special_tokens=asked.add_special_tokens is not False
            )
            ids = list(prompt.ids)
        texts = [service.model.token_text(token_id).text for token_id in ids] if asked.return_token_strs else None
        return json_response(Tokens(count=len(ids), max_model_len=service.max_model_len, tokens=ids, token_strs=texts))

    @router.post("/detokenize", **describe("Return the text of token ids.", DetokenizeRequest, Text))
    async def detokenize(request: Request) -> Response:
        asked = await service.read(request, DetokenizeRequest)
        service.model_name(asked.model)
        check_ids("tokens", asked.tokens, service.model.vocab_size)
        return json_response(Text(prompt=service.model.tokenizer.decode(asked.tokens, skip_special_tokens=False)))

    return router
