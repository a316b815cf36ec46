"""Chat completions, as clients send and read them."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from langchain_core.messages import (
    AIMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from langchain_resilient.service.calls import (
    Call,
    CallKeys,
    as_json,
    details,
    event,
    is_list_of,
    is_text,
    read_flag,
    read_model,
    resilience_params,
    sort_params,
    whole_calls,
)
from langchain_resilient.service.failures import BadRequestError
from langchain_resilient.wire.finish_reasons import REASON_KEYS, Ending, ending_of
from langchain_resilient.wire.messages import assistant_blocks
from langchain_resilient.wire.provider_state import CALLS_KEY, REASONING_FIELD_KEY, RECEIPT_KEY
from langchain_resilient.wire.responses import reasoning_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_core.messages import AIMessageChunk, BaseMessage, ToolCallChunk

    from langchain_resilient.service.failures import Failure

_EXTRAS = ("audio", "annotations", "function_call", "reasoning_details")
"""What an answer may hold beside its text, thoughts, refusal and calls."""

_GIVEN_BACK = ("refusal", "audio", "function_call", "reasoning_content", "reasoning_details")
"""What of it is taken from the answers that clients send back."""

_READ = frozenset({"model", "messages", "stream", "stream_options", "resilience"})


class ChatCompletions:
    """The API of `/v1/chat/completions`."""

    def read(self, body: dict[str, Any]) -> Call:
        """Read a request; see `API.read`."""
        given = body.get("messages")
        if not is_list_of(given, dict) or not given:
            raise BadRequestError("messages must be a list of messages, and not empty", "messages")
        messages = [read_message(each, f"messages[{n}]") for n, each in enumerate(given or ())]
        options = body.get("stream_options") or {}
        if not isinstance(options, dict):
            raise BadRequestError("stream_options must be an object", "stream_options")
        params = sort_params(body, _READ)
        answers = params.get("n") or 1
        return Call(
            messages,
            {**params, **resilience_params(body)},
            read_model(body),
            stream=read_flag(body, "stream"),
            answers=answers if isinstance(answers, int) else 1,
            usage=bool(options.get("include_usage")),
        )

    def document(self, call: Call, messages: list[AIMessage]) -> dict[str, Any]:
        """Write a whole answer; see `API.document`."""
        return {
            "id": f"chatcmpl-{call.id}",
            "object": "chat.completion",
            "created": call.created,
            "model": _model_name(messages[0], call),
            "choices": [
                {
                    "index": index,
                    "message": _answer(message),
                    "logprobs": message.response_metadata.get("logprobs"),
                    "finish_reason": finish_reason(message),
                }
                for index, message in enumerate(messages)
            ],
            "usage": _usage(messages[0]),
            **_known(messages[0]),
        }

    def writer(self, call: Call) -> ChatStream:
        """Begin a streamed answer."""
        return ChatStream(call)


# -- reading ---------------------------------------------------------------------------------------


def read_message(given: dict[str, Any], place: str) -> BaseMessage:
    """Read one message.

    Only what a chat-completions message has is taken over: LangChain's own forms of a message hold
    fields that are not a client's to set.
    """
    role, content = given.get("role"), given.get("content")
    if content is not None and not is_text(content) and not is_list_of(content, dict):
        raise BadRequestError(f"{place}.content must be a text or a list of parts", place)
    content = content or ""
    named: dict[str, Any] = {"name": str(given["name"])} if given.get("name") else {}
    if role == "user":
        return HumanMessage(content=content, **named)
    if role in ("system", "developer"):
        extras = {"__openai_role__": "developer"} if role == "developer" else {}
        return SystemMessage(content=content, additional_kwargs=extras, **named)
    if role == "assistant":
        return _assistant(given, content, named, place)
    if role == "tool":
        id_ = given.get("tool_call_id")
        return ToolMessage(content=content, tool_call_id=str(id_ or ""))
    if role == "function":
        return FunctionMessage(content=content, name=str(given.get("name") or "unknown"))
    msg = (
        f"{place}.role is {str(role)[:40]!r}: it must be system, developer, user, assistant or tool"
    )
    raise BadRequestError(msg, f"{place}.role")


def _assistant(given: dict[str, Any], content: Any, named: dict[str, Any], place: str) -> AIMessage:
    calls, invalid, signed = [], [], {}
    given_calls = given.get("tool_calls") or []
    if not is_list_of(given_calls, dict):
        raise BadRequestError(f"{place}.tool_calls must be a list of objects", place)
    for call in given_calls:
        function = call.get("function") or call.get("custom")
        if not isinstance(function, dict):
            raise BadRequestError(f"{place}.tool_calls holds a call without a function", place)
        name, args = function.get("name"), function.get("arguments", function.get("input"))
        known = {"name": name, "args": args or "{}", "id": call.get("id")}
        if call.get("extra_content"):
            signed[str(call.get("id"))] = call["extra_content"]
        try:
            parsed = json.loads(args or "{}") if is_text(args or "{}") else args
        except (ValueError, RecursionError):
            parsed = None
        if isinstance(parsed, dict) and is_text(name):
            calls.append({**known, "args": parsed, "type": "tool_call"})
        else:
            error = "the arguments are not a JSON object"
            known["args"] = args if is_text(args) else json.dumps(args)
            invalid.append({**known, "error": error, "type": "invalid_tool_call"})
    extras = {name: given[name] for name in _GIVEN_BACK if given.get(name)}
    return AIMessage(
        content=content,
        tool_calls=calls,
        invalid_tool_calls=invalid,
        additional_kwargs={**extras, CALLS_KEY: signed} if signed else extras,
        response_metadata=read_maker(given),
        **named,
    )


def read_maker(given: dict[str, Any]) -> dict[str, Any]:
    """Read who made an answer, as `maker_of` wrote it, into the metadata of a message."""
    made = given.get(RECEIPT_KEY)
    if not isinstance(made, dict) or not is_text(made.get("winner")):
        return {}
    field = made.get(REASONING_FIELD_KEY)
    more = {REASONING_FIELD_KEY: field} if is_text(field) else {}
    return {RECEIPT_KEY: {"winner": made["winner"]}, **more}


# -- writing ---------------------------------------------------------------------------------------

_WORDS = {
    Ending.WHOLE: "stop",
    Ending.CUT_SHORT: "length",
    Ending.FILTERED: "content_filter",
    Ending.BROKEN: "stop",
}
_OWN_WORDS = frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"})


def finish_reason(message: AIMessage, *, calls: bool = False) -> str:
    """Why an answer ended, in OpenAI's words whatever its provider or its integration said.

    Args:
        message: The answer, or the last piece of its stream.
        calls: Whether earlier pieces called tools.
    """
    metadata = message.response_metadata
    reason = next((metadata[name] for name in REASON_KEYS if metadata.get(name)), None)
    if reason in _OWN_WORDS:
        return str(reason)
    word = _WORDS[ending_of(reason if isinstance(reason, str) else None)]
    if word == "stop" and (calls or message.tool_calls or message.invalid_tool_calls):
        return "tool_calls"
    return word


def thoughts_in(block: Mapping[str, Any]) -> str:
    """The thoughts in a block, as OpenAI, Anthropic or Bedrock have it; else empty."""
    kind = block.get("type")
    if kind == "thinking":
        return str(block.get("thinking") or "")
    if kind == "reasoning_content" and isinstance(inner := block.get(kind), dict):
        return str(inner.get("text") or "")
    return reasoning_text(block)


def reasoning_of(message: AIMessage) -> str:
    """The thoughts of an answer, as far as they can be read."""
    if thoughts := message.additional_kwargs.get("reasoning_content"):
        return str(thoughts)
    content = message.content
    if not isinstance(content, list):
        return ""
    return "".join(thoughts_in(block) for block in content if isinstance(block, dict))


def refusal_of(message: AIMessage) -> str:
    """Why a model refused; empty if it did not."""
    if refusal := message.additional_kwargs.get("refusal"):
        return str(refusal)
    return assistant_blocks(message.content)[1] if isinstance(message.content, list) else ""


def _model_name(message: AIMessage, call: Call) -> str:
    return str(message.response_metadata.get("model_name") or call.model)


def _known(message: AIMessage) -> dict[str, Any]:
    names = ("service_tier", "system_fingerprint")
    known = message.response_metadata
    return {name: known[name] for name in names if known.get(name)}


def _answer(message: AIMessage) -> dict[str, Any]:
    text = str(message.text)
    refusal = refusal_of(message)
    answer: dict[str, Any] = {
        "role": "assistant",
        "content": text or None,
        "refusal": refusal or None,
    }
    if thoughts := reasoning_of(message):
        answer["reasoning_content"] = thoughts
    extras = message.additional_kwargs
    answer |= {name: extras[name] for name in _EXTRAS if extras.get(name)}
    signed = extras.get(CALLS_KEY) or {}
    if calls := [_call(*call, extra=signed.get(call[0])) for call in whole_calls(message)]:
        answer["tool_calls"] = calls
    elif not (text or refusal or answer.keys() & {"audio", "function_call"}):
        answer["content"] = ""
    if signed or answer.keys() & {"reasoning_content", "reasoning_details"}:
        answer |= maker_of(message, message.response_metadata.get(RECEIPT_KEY))
    return answer


def maker_of(message: AIMessage, receipt: Mapping[str, Any] | None) -> dict[str, Any]:
    """Say who made an answer: what it wants back (thoughts, signatures) goes back to it alone.

    Clients that give back the whole message give this back too. Nothing, where several made it.
    """
    if not receipt or not receipt.get("winner") or receipt.get("breaks"):
        return {}
    field = message.response_metadata.get(REASONING_FIELD_KEY)
    more = {REASONING_FIELD_KEY: field} if field else {}
    return {RECEIPT_KEY: {"winner": receipt["winner"], **more}}


def _call(id_: str, name: str, args: str, *, extra: Any = None) -> dict[str, Any]:
    call: dict[str, Any] = {
        "id": id_ or _new_id(),
        "type": "function",
        "function": {"name": name, "arguments": args},
    }
    return call if extra is None else {**call, "extra_content": extra}


def _new_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


def _usage(message: AIMessage) -> dict[str, Any] | None:
    usage = message.usage_metadata
    if usage is None:
        return None
    given, made = details(usage, "input_token_details"), details(usage, "output_token_details")
    return {
        "prompt_tokens": usage["input_tokens"],
        "completion_tokens": usage["output_tokens"],
        "total_tokens": usage["total_tokens"],
        "prompt_tokens_details": {
            "cached_tokens": given.get("cache_read", 0),
            "audio_tokens": given.get("audio", 0),
        },
        "completion_tokens_details": {
            "reasoning_tokens": made.get("reasoning", 0),
            "audio_tokens": made.get("audio", 0),
        },
    }


class ChatStream:
    """Writes one answer as `chat.completion.chunk` events; see `StreamWriter`."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._head = {
            "id": f"chatcmpl-{call.id}",
            "object": "chat.completion.chunk",
            "created": call.created,
        }
        # Most chunks are text: they are written around these, in a third of the time.
        head = as_json({**self._head, "model": call.model})[:-1]
        null = ',"usage":null' if call.usage else ""
        self._before = f'data: {head}{null},"choices":[{{"index":0,"delta":{{"content":'
        self._after = '},"logprobs":null,"finish_reason":null}]}\n\n'
        self._begun = False
        self._keys = CallKeys()
        self._calls: dict[object, int] = {}
        self._ids: dict[str, int] = {}
        self._wants_back = False
        self._last: AIMessage | None = None

    def add(self, chunk: AIMessageChunk) -> bytes:
        """Write a chunk."""
        content = chunk.content
        if (
            self._begun
            and content.__class__ is str
            and content
            and not chunk.additional_kwargs
            and not chunk.tool_call_chunks
            and len(chunk.response_metadata) <= 1
            and chunk.chunk_position is None
        ):
            return f"{self._before}{as_json(content)}{self._after}".encode()
        return self._add_any(chunk)

    def _add_any(self, chunk: AIMessageChunk) -> bytes:
        delta: dict[str, Any] = {}
        if text := str(chunk.text):
            delta["content"] = text
        if thoughts := reasoning_of(chunk):
            delta["reasoning_content"] = thoughts
        if refusal := refusal_of(chunk):
            delta["refusal"] = refusal
        extras = chunk.additional_kwargs
        delta |= {name: extras[name] for name in _EXTRAS if extras.get(name)}
        calls = [each for piece in chunk.tool_call_chunks if (each := self._call_piece(piece))]
        if signed := extras.get(CALLS_KEY):
            calls += [self._signature(*each) for each in signed.items() if each[0] in self._ids]
        if calls:
            delta["tool_calls"] = calls
        if signed or delta.keys() & {"reasoning_content", "reasoning_details"}:
            self._wants_back = True
        metadata = chunk.response_metadata
        if not metadata.keys().isdisjoint(REASON_KEYS) or chunk.usage_metadata is not None:
            self._last = chunk
            if self._wants_back:
                delta |= maker_of(chunk, metadata.get(RECEIPT_KEY))
        logprobs = metadata.get("logprobs")
        return self._opened(delta, logprobs) if delta or logprobs or not self._begun else b""

    def _opened(
        self, delta: dict[str, Any], logprobs: Any = None, *, index: int = 0, first: bool = False
    ) -> bytes:
        if first or not self._begun:
            self._begun = True
            delta = {"role": "assistant", "content": "", **delta}
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}
        return self._event([choice])

    def _call_piece(self, piece: ToolCallChunk) -> dict[str, Any] | None:
        """Write a piece of a tool call, numbered in the order in which calls begin."""
        key, args = self._keys.key(piece), piece.get("args") or ""
        if id_ := piece.get("id"):  # one that is made here comes last
            self._ids[id_] = self._calls.get(key, len(self._calls))
        if key in self._calls:
            if not args and not piece.get("name"):
                return None
            function = {"arguments": args}
            if name := piece.get("name"):
                function["name"] = name
            return {"index": self._calls[key], "function": function}
        number = self._calls[key] = len(self._calls)
        call = _call(id_ or "", piece.get("name") or "", args)
        return {"index": number, **call}

    def _signature(self, id_: str, extra: Any) -> dict[str, Any]:
        """Write what a provider wants back with a call, known once the answer is whole."""
        index = self._ids[id_]
        return {"index": index, "function": {"arguments": ""}, "extra_content": extra}

    def whole(self, messages: list[AIMessage]) -> bytes:
        """Write several answers that came as wholes."""
        self._last = messages[0]
        written = b""
        for index, message in enumerate(messages):
            answer = _answer(message)
            for number, call in enumerate(answer.get("tool_calls") or ()):
                call["index"] = number
            answer["content"] = answer["content"] or ""
            written += self._opened(
                answer, message.response_metadata.get("logprobs"), index=index, first=True
            )
            if index:
                written += self._finish(message, index)
        return written

    def end(self, receipt: dict[str, Any] | None) -> bytes:
        """Write why it ended, the token counts, and that nothing follows."""
        last = self._last or AIMessage("")
        written = self._opened({}) if not self._begun else b""
        written += self._finish(last, 0, receipt)
        if self._call.usage:
            usage = {**self._head, "model": _model_name(last, self._call), "choices": []}
            written += event({**usage, "usage": _usage(last)})
        return written + b"data: [DONE]\n\n"

    def _finish(
        self, message: AIMessage, index: int, receipt: dict[str, Any] | None = None
    ) -> bytes:
        reason = finish_reason(message, calls=bool(self._calls))
        choice = {"index": index, "delta": {}, "logprobs": None, "finish_reason": reason}
        more = {**_known(message), **({"resilience": receipt} if receipt else {})}
        return self._event([choice], _model_name(message, self._call), **more)

    def _event(self, choices: list[dict[str, Any]], model: str | None = None, **more: Any) -> bytes:
        usage = {"usage": None} if self._call.usage else {}
        body = {**self._head, "model": model or self._call.model, **usage, "choices": choices}
        return event({**body, **more})

    def failure(self, failure: Failure) -> bytes:
        """Write that the answer broke off; without `[DONE]`, for it is not done."""
        return event({"error": failure.as_dict()})
