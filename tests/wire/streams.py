"""Makes chunks, by hand and by chance."""

import json

from hypothesis import strategies as st

HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o"}


def chunk(content=None, *, finish=None, index=0, usage=None, head=None, logprobs=None, **delta):
    """One chunk of a stream with one choice."""
    if content is not None:
        delta["content"] = content
    choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
    return {**HEAD, **(head or {}), "choices": [choice], "usage": usage}


def call(args=None, *, index=0, id=None, name=None):  # noqa: A002
    """One fragment of a tool call."""
    function = {k: v for k, v in {"name": name, "arguments": args}.items() if v is not None}
    fields = {"index": index, "id": id, "type": "function", "function": function}
    return {k: v for k, v in fields.items() if v is not None}


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}

text = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8)


@st.composite
def pieces_of(draw, whole):
    """A text, cut at random places."""
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    return [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


@st.composite
def tool_chunks(draw):
    """Some tool calls in fragments, numbered in one of the ways in which servers do, mixed."""
    calls = []
    for position in range(draw(st.integers(0, 3))):
        args = draw(st.dictionaries(text, st.integers() | text | st.none(), max_size=3))
        cut = draw(pieces_of(json.dumps(args, ensure_ascii=draw(st.booleans()))))
        calls.append((position, draw(st.sampled_from(["add", "get_weather"])), cut))
    way = draw(st.sampled_from(["index", "float", "id only", "one by one"]))
    results = []
    for position, name, cut in calls:
        number = {"index": position, "float": float(position)}.get(
            way, -1 if position % 2 else None
        )
        id_ = f"call_{position}"
        first = call(cut[0], index=number, id=id_, name=name)
        keep = {"id": id_} if way == "id only" else {}
        rest = [call(piece, index=number, **keep) for piece in cut[1:]]
        results.append([chunk(tool_calls=[fragment]) for fragment in (first, *rest)])
    if way == "one by one":
        return [c for fragments in results for c in fragments]
    return draw(interleaved(results))


@st.composite
def interleaved(draw, lists):
    """Several lists mixed, each in its own order."""
    order = draw(st.permutations([n for n, items in enumerate(lists) for _ in items]))
    sources = [iter(items) for items in lists]
    return [next(sources[n]) for n in order]


plain_chunks = st.lists(
    st.builds(chunk, text)
    | st.builds(chunk, text, role=st.just("assistant"), token_id=st.integers())
    | st.builds(lambda t: chunk(reasoning_content=t, content=None), text)
    | st.builds(lambda t: chunk(reasoning=t, content=""), text)
    | st.builds(lambda t: chunk(refusal=t), text)
    | st.builds(
        lambda t, p: chunk(t, logprobs={"content": [{"token": t, "logprob": p}], "refusal": None}),
        text,
        st.floats(-9, 0),
    )
    | st.builds(lambda t: chunk(t, index=1), text)
    | st.builds(lambda f: chunk("x", head={"system_fingerprint": f}), text)
    | st.builds(lambda n: chunk("y", usage={**USAGE, "completion_tokens": n}), st.integers(0, 9)),
    max_size=8,
)


@st.composite
def streams(draw):
    """A whole stream as a server might send it, with an end and perhaps usage after it."""
    reasons = ["stop", "length", "tool_calls", "eos", "content_filter"]
    reason = draw(st.sampled_from(reasons))
    middle = draw(interleaved([draw(plain_chunks), draw(tool_chunks())]))
    tail = [chunk(finish=reason, index=n) for n in (0, 1)]
    tail += draw(st.sampled_from([[], [chunk("", finish="stop", usage=USAGE)]]))
    tail += draw(st.sampled_from([[], [{**HEAD, "choices": [], "usage": USAGE}]]))
    return [chunk("", role="assistant", refusal=None), *middle, *tail]


KEYS = [
    *["choices", "delta", "message", "content", "text", "index", "finish_reason", "logprobs"],
    *["tool_calls", "function", "function_call", "name", "arguments", "id", "model", "usage"],
    *["reasoning", "reasoning_content", "reasoning_details", "refusal", "audio", "annotations"],
    *["error", "warnings", "data", "transcript", "type", "thinking", "prompt_tokens"],
]
scalars = st.none() | st.booleans() | st.integers() | st.floats() | text
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3)
    ),
    max_leaves=6,
)
deltas = st.dictionaries(st.sampled_from(KEYS), anything, max_size=4)
hostile = anything | st.builds(
    lambda choice, rest: {**rest, "choices": [choice]},
    st.builds(lambda d, rest: {**rest, "delta": d}, deltas, deltas)
    | st.builds(lambda d, rest: {**rest, "message": d}, deltas, deltas),
    deltas,
)
