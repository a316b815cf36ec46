"""Reads the recorded exchanges, and says by simple means what each answer holds."""

import gzip
import json
from pathlib import Path

FOLDER = Path(__file__).parents[2] / ".." / "shared" / "recordings"


def exchanges():
    """Every recorded exchange."""
    for file in sorted(FOLDER.glob("*.jsonl.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def request_of(exchange):
    """The request's JSON, or None where it is none."""
    body = exchange["request"]["body"]
    try:
        body = json.loads(body) if isinstance(body, str) else body
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def payloads(body):
    """The payloads of a response, whole or streamed, by a splitter that knows no subtleties."""
    try:
        return [json.loads(body)]
    except ValueError:
        pass
    found = []
    for event in body.replace("\r\n", "\n").split("\n\n"):
        lines = [line[5:].strip() for line in event.split("\n") if line.startswith("data:")]
        if lines and lines != ["[DONE]"]:
            found.append(json.loads("\n".join(lines)))
    return found


class Expected:
    """What the first choice of an answer says, read naively: each kind of piece joined in order."""

    def __init__(self, chunks):
        self.text = self.refusal = self.reasoning = ""
        self.calls, self.finishes, self.logprobs = {}, [], []
        self.usage, self.models, self.audio, self.function = None, [], None, {}
        self.annotations = []
        self.indexes = set()
        for chunk in chunks:
            self.usage = chunk.get("usage") or self.usage
            self.models.append(chunk.get("model"))
            for choice in chunk.get("choices") or []:
                self.indexes.add(choice.get("index") or 0)
                if not choice.get("index"):
                    self._add(choice)

    def _add(self, choice):
        body = choice.get("delta") or choice.get("message") or {}
        self.text += body.get("content") or ""
        self.refusal += body.get("refusal") or ""
        self.reasoning += body.get("reasoning_content") or body.get("reasoning") or ""
        self.audio = body.get("audio") or self.audio
        self.annotations += body.get("annotations") or []
        for key, value in (body.get("function_call") or {}).items():
            self.function[key] = self.function.get(key, "") + (value or "")
        if choice.get("finish_reason"):
            self.finishes.append(choice["finish_reason"])
        if choice.get("logprobs") is not None:
            self.logprobs.append(choice["logprobs"])
        for place, call in enumerate(body.get("tool_calls") or []):
            whole = "message" in choice
            known = self.calls.setdefault(place if whole else call["index"], ["", "", ""])
            function = call.get("function") or {}
            known[0] = known[0] or call.get("id") or ""
            known[1] += function.get("name") or ""
            known[2] += function.get("arguments") or ""
