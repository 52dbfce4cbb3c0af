"""
The AI chat service: a message is accepted at once and answered by the worker.

Without further settings a small local responder answers, which says plainly that it is no language
model. ``TRACEBATON_CHAT_URL`` names any OpenAI-compatible endpoint, for example
``http://127.0.0.1:11434/v1``.
"""

from collections import Counter
from typing import Annotated

import httpx
from opentelemetry import trace
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.trace import Span, SpanKind
from pydantic import BaseModel, Field, StringConstraints, ValidationError
from starlette.requests import Request

from tracebaton import Tracebaton, problems
from tracebaton.errors import DependencyError, DependencyTimeout
from tracebaton.semconv import (
    GEN_AI_CONVERSATION_ID,
    GEN_AI_INPUT_TOKENS,
    GEN_AI_OPERATION,
    GEN_AI_OUTPUT_TOKENS,
    GEN_AI_PROVIDER,
    GEN_AI_REQUEST_MODEL,
    GEN_AI_RESPONSE_MODEL,
)
from tracebaton.tasks import Task

__all__ = ["ChatReply", "ChatRequest", "app"]

#: Seconds a model may take; below the deadline, so that a slow one is a clear error of its own.
_MODEL_TIMEOUT = 50.0

app: Tracebaton = Tracebaton()


class ChatRequest(BaseModel):
    """What a user says."""

    message: Annotated[str, StringConstraints(min_length=1, max_length=32_000)]
    conversation_id: str | None = Field(default=None, max_length=128)


class ChatReply(BaseModel):
    """What the model answers."""

    reply: str
    model: str
    conversation_id: str | None = None


@app.task("ai.chat", model=ChatRequest, deadline=60)
async def chat(request: ChatRequest) -> ChatReply:
    """Answer *request* by the configured model, inside a ``gen_ai`` span."""
    settings = app.settings
    model = settings.chat_model
    attributes = {
        GEN_AI_OPERATION: "chat",
        GEN_AI_PROVIDER: "openai" if settings.chat_url else "tracebaton",
        GEN_AI_REQUEST_MODEL: model,
    }
    if request.conversation_id:
        attributes[GEN_AI_CONVERSATION_ID] = request.conversation_id
    with trace.get_tracer(__name__).start_as_current_span(
        f"chat {model}",
        kind=SpanKind.CLIENT if settings.chat_url else SpanKind.INTERNAL,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            if settings.chat_url is None:
                return _local(request, span)
            return await _remote(request, settings.chat_url, model, settings.chat_api_key, span)
        except Exception as exc:
            problems.record(exc, problems.outcome_of(exc), span)
            raise


@app.route("/v1/ai/chat", methods=["POST"], model=ChatRequest)
async def submit(request: Request, message: ChatRequest) -> Task:
    """Accept a chat message: 202 and the address of its task."""
    return await app.enqueue("ai.chat", message)


def _local(request: ChatRequest, span: Span) -> ChatReply:
    """Say something true about the message, without pretending to be a model."""
    words = [word.strip(".,;:!?\"'()").casefold() for word in request.message.split()]
    common = Counter(word for word in words if len(word) > 3).most_common(3)
    topic = ", ".join(word for word, _ in common) or request.message[:40]
    reply = (
        f"You wrote {len(words)} word{'' if len(words) == 1 else 's'}, mostly about {topic}."
        " I am the local responder of the tracebaton example and no language model;"
        " set TRACEBATON_CHAT_URL to talk to one."
    )
    span.set_attributes(
        {
            GEN_AI_RESPONSE_MODEL: "local",
            GEN_AI_INPUT_TOKENS: len(words),
            GEN_AI_OUTPUT_TOKENS: len(reply.split()),
        }
    )
    return ChatReply(reply=reply, model="local", conversation_id=request.conversation_id)


class _Message(BaseModel):
    content: str


class _Choice(BaseModel):
    message: _Message


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(BaseModel):
    model: str = "unknown"
    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: _Usage = _Usage()


async def _remote(
    request: ChatRequest, url: str, model: str, api_key: str | None, span: Span
) -> ChatReply:
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    body = {"model": model, "messages": [{"role": "user", "content": request.message}]}
    async with httpx.AsyncClient(timeout=_MODEL_TIMEOUT) as client:
        if not HTTPXClientInstrumentor().is_instrumented_by_opentelemetry:
            HTTPXClientInstrumentor.instrument_client(client)
        try:
            answer = await client.post(
                f"{url.rstrip('/')}/chat/completions", json=body, headers=headers
            )
            answer.raise_for_status()
            completion = _Completion.model_validate_json(answer.content)
        except httpx.TimeoutException as exc:
            raise DependencyTimeout("The model did not answer in time.") from exc
        except (httpx.HTTPError, ValidationError) as exc:
            raise DependencyError("The model cannot be reached or answered nonsense.") from exc
    span.set_attributes(
        {
            GEN_AI_RESPONSE_MODEL: completion.model,
            GEN_AI_INPUT_TOKENS: completion.usage.prompt_tokens,
            GEN_AI_OUTPUT_TOKENS: completion.usage.completion_tokens,
        }
    )
    return ChatReply(
        reply=completion.choices[0].message.content,
        model=completion.model,
        conversation_id=request.conversation_id,
    )
