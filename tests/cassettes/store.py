"""How cassettes lie on disk: gzipped JSON, the same bytes for the same exchanges."""

from __future__ import annotations

import gzip
import inspect
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vcr.persisters.filesystem import CassetteNotFoundError
from vcr.request import Request

from langchain_resilient.providers.openai import OpenAIProvider
from langchain_resilient.providers.together import TogetherProvider
from tests.cassettes.cleaning import clean

FOLDER = Path(__file__).parents[2] / "cassettes"
ENDING = "json.gz"
EMBEDDED_URL = "http://embedded.test/v1"
PUBLIC_URLS = {"openai": OpenAIProvider.public_url, "together": TogetherProvider.public_url}


class Store:
    """vcrpy's persister. It cleans what it saves, so nothing else is ever written."""

    @staticmethod
    def load_cassette(cassette_path: str, serializer: Any) -> tuple[list[Any], list[Any]]:
        """Read a cassette; vcrpy calls it with any path."""
        path = Path(cassette_path)
        if not path.is_file():
            raise CassetteNotFoundError
        exchanges = read(path)
        requests = [Request(**exchange["request"]) for exchange in exchanges]
        responses = [exchange["response"] for exchange in exchanges]
        for response in responses:
            response["body"]["string"] = response["body"]["string"].encode()
        return requests, responses

    @staticmethod
    def save_cassette(cassette_path: str, cassette_dict: dict[str, Any], serializer: Any) -> None:
        """Write a cassette."""
        path = Path(cassette_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        exchanges = clean(cassette_dict["requests"], cassette_dict["responses"])
        text = json.dumps(exchanges, ensure_ascii=False, indent=1, sort_keys=True)
        path.write_bytes(gzip.compress(text.encode(), mtime=0))


def read(path: Path) -> list[dict[str, Any]]:
    """Read the exchanges of a cassette."""
    exchanges: list[dict[str, Any]] = json.loads(gzip.decompress(path.read_bytes()))
    return exchanges


def at_home(request: Any) -> Any:
    """Give a request the address that it would have had: ports of servers on loopback change."""
    url = urlsplit(request.uri)
    if url.hostname == "127.0.0.1":
        dialect = url.path.split("/")[1]
        request.uri = PUBLIC_URLS.get(dialect, EMBEDDED_URL + url.path.removeprefix("/v1"))
    return request


def same_json(one: Any, other: Any) -> None:
    """Match two requests by what their bodies mean."""
    assert _meaning(one.body) == _meaning(other.body)


def _meaning(body: Any) -> Any:
    try:
        return _told(json.loads(body), {})
    except (TypeError, ValueError):
        return body


def _told(value: Any, ids: dict[str, int]) -> Any:
    """Take out of a body what differs from run to run, and from one Python to the next."""
    if isinstance(value, list):
        return [_told(inner, ids) for inner in value]
    if not isinstance(value, dict):
        return value
    told = {key: _told(inner, ids) for key, inner in value.items()}
    if isinstance(text := value.get("description"), str):
        # Python 3.13 takes the indentation out of docstrings, from which tools are described.
        told["description"] = inspect.cleandoc(text)
    for key in ("id", "tool_call_id"):
        # LangChain's few-shot examples make new ids each time: what counts is which are the same.
        if isinstance(id_ := value.get(key), str):
            told[key] = ids.setdefault(id_, len(ids))
    return told
