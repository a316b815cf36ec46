"""The service's TOML file."""

from __future__ import annotations

import textwrap

import pytest
from pydantic import ValidationError

from langchain_resilient import Hedge, ResilientChatModel, Target, cli
from langchain_resilient.configuration import Configuration, chain_of
from langchain_resilient.policies import TimeLimits
from langchain_resilient.service.config import ServiceConfig, load_config, model_of


class Quiet:
    """An observer that a file can name."""

    def on_receipt(self, receipt, *, call) -> None: ...


QUIET = Quiet()


def agrees(answer) -> bool:
    """A check that a file can name."""
    return bool(answer.text)


@pytest.fixture
def load(tmp_path):
    """Read a file with this text."""

    def read(text: str, **environ: str):
        path = tmp_path / "serve.toml"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return load_config(path, environ)

    return read


def test_both_tables(load):
    """Each becomes what Python would have made of it."""
    service, fields = load(
        """
        [service]
        port = 8080
        client_keys = ["${SERVICE_KEY}", "sk-${PART}-x"]

        [model]
        timeout = 30
        hedge = { delay = 0.5, pause = "none" }
        health = "none"
        time_limits = { chunk_gap = "none", first_text = 20 }
        reasoning_effort = "none"
        last_resort = "Sorry."
        api_key = { together = "${TOGETHER}" }
        max_retries = 2

        [[model.targets]]
        provider = "openai"
        model = "gpt-6.1-sol"
        api_key = "${OPENAI}"
        base_url = "http://${HOST}/v1"
        time_limits = { answer = "none" }

        [[model.targets]]
        provider = "together"
        model = "qwen"
        """,
        SERVICE_KEY="sk-service", PART="p", OPENAI="k-1", TOGETHER="k-2", HOST="localhost:1",
    )  # fmt: skip
    config, llm = ServiceConfig(**service), model_of(fields)
    assert config.port == 8080
    assert [k.get_secret_value() for k in config.client_keys] == ["sk-service", "sk-p-x"]
    assert llm == ResilientChatModel(
        targets=[
            Target(
                "openai:gpt-6.1-sol", api_key="k-1", base_url="http://localhost:1/v1",
                time_limits=TimeLimits(answer=None),
            ),
            Target("together:qwen"),
        ],
        timeout=30,
        hedge=Hedge(delay=0.5, pause=None),
        health=None,
        time_limits=TimeLimits(chunk_gap=None, first_text=20),
        reasoning_effort="none",
        last_resort="Sorry.",
        api_key={"together": "k-2"},
        max_retries=2,
    )  # fmt: skip
    for secret in ("k-1", "k-2", "sk-service"):
        assert secret not in repr(llm) + repr(config)


def test_objects_of_python(load):
    """What TOML cannot say is imported: so every option can be set."""
    here = f"python:{__name__}"
    _, fields = load(
        f"""
        [model]
        targets = ["openai:m", "{here}:TARGET"]
        api_key = "k"
        check = "{here}:agrees"
        observers = ["{here}:QUIET"]
        retry = {{ stop = "{here}:STOP" }}
        """
    )
    llm = model_of(fields)
    assert (llm.check, llm.observers) == (agrees, (QUIET,))
    assert chain_of(llm)[1] is TARGET
    assert llm.retry.stop is STOP


TARGET = Target("openai:other", api_key="k")


def STOP(state) -> bool:  # noqa: N802
    return True


VALUES = {
    "targets": '["openai:m"]', "api_key": '"k"', "timeout": "9", "time_limits": "{ connect = 1 }",
    "hedge": "0.5", "order": '"fastest"', "affinity": "true", "spread": "false",
    "health": "{ trip_after = 8 }", "share_learning": "false", "retry": "{ budget = 0.1 }",
    "max_retries": "1", "fallback_on": '["server"]', "on_break": '"raise"',
    "last_resort": '"Sorry."', "last_resort_after": "1", "spend_cap": "{ dollars = 5 }",
    "check": f'"python:{__name__}:agrees"', "observers": f'["python:{__name__}:QUIET"]',
    "default_query": '{ a = "b" }', "http_async_client": f'"python:{__name__}:agrees"',
    "remember": '"learned.json"', "shared": '"redis://localhost:1/0"',
    "keep_warm": "false", "streaming": "true", "temperature": "0.5", "max_tokens": "5",
    "top_p": "0.5", "top_k": "5",
    "min_p": "0.1", "stop": '["x"]', "seed": "1", "frequency_penalty": "1",
    "presence_penalty": "1", "repetition_penalty": "1", "logit_bias": '{ "1" = 2 }',
    "logprobs": "true", "top_logprobs": "2", "n": "1", "reasoning_effort": '"low"',
    "verbosity": '"low"', "service_tier": '"flex"', "store": "true", "user": '"me"',
    "safety_identifier": '"me"', "prompt_cache_key": '"k"',
    "prediction": '{ type = "content", content = "x" }', "stream_usage": "false",
    "extra_body": "{ a = 1 }", "extra_headers": '{ a = "b" }', "model_kwargs": "{ a = 1 }",
}  # fmt: skip


@pytest.mark.parametrize("name", Configuration.model_fields)
def test_every_option_can_be_set(load, name):
    """Each field of the model, in TOML."""
    given = {
        "targets": '[{ provider = "openai", model = "m", price = [1, 2] }]',
        "api_key": '"k"',
        "logprobs": "true",
    }
    given[name] = VALUES[name]
    lines = "\n".join(f"{key} = {value}" for key, value in given.items())
    _, fields = load("[model]\n" + lines)
    assert name in model_of(fields).model_fields_set


def test_a_field_may_have_its_other_name(load):
    """As in Python, `warm`."""
    _, fields = load('[model]\ntargets = ["text:hi"]\nwarm = true')
    assert model_of(fields).keep_warm


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[service", "serve.toml"),
        ("[server]", "unknown tables or keys server"),
        ("[modle]", r"did you mean \[model\]\?"),
        ("timeout = 5", r"timeout belongs into \[model\]"),
        ('[model]\napi_key = "${NOWHERE}"', "model.api_key: .* NOWHERE is not set"),
        ('[model]\ntargets = [{ api_key = "${NOWHERE}" }]', r"model.targets\[0\].api_key"),
        ('[model]\ncheck = "python:nowhere:x"', "model.check: .*cannot be imported"),
        ('[model]\ncheck = "python:os:nowhere"', "model.check: .*cannot be imported"),
    ],
    ids=["toml", "table", "misspelt", "bare", "variable", "nested", "module", "name"],
)
def test_what_is_wrong_is_named(load, text, says):
    """With its place in the file."""
    with pytest.raises(ValueError, match=says):
        load(text)


@pytest.mark.parametrize(
    "fields",
    [
        {"host": "0.0.0.0"},  # noqa: S104
        {"host": "example.com"},
        {"host": "::"},
        {"client_keys": [""]},
        {"client_keys": ["  "]},
        {"prot": 80},
        {"max_in_flight": 0},
    ],
    ids=str,
)
def test_an_open_service_must_be_meant(fields):
    """Other machines come in with a key, or because somebody wrote that they may."""
    with pytest.raises(ValidationError):
        ServiceConfig(**fields)


def test_other_machines_with_a_key_or_on_purpose():
    """Either will do."""
    ServiceConfig(host="0.0.0.0", client_keys=["sk-x"])  # noqa: S104
    ServiceConfig(host="0.0.0.0", open_to_all=True)  # noqa: S104
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        ServiceConfig(host=host)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--config", "/nowhere.toml"], "/nowhere.toml"),
        (["--host", "0.0.0.0", "-t", "openai:m"], "can be reached from other machines"),  # noqa: S104
        (["--client-key", "env:NOWHERE"], "NOWHERE is not set"),
        (["--port", "99999", "-t", "openai:m"], "port"),
        (["-t", "nonsense:m"], "nonsense"),
    ],
    ids=["file", "open", "key", "port", "target"],
)
def test_a_wrong_command_is_one_line(capsys, monkeypatch, args, says):
    """And nothing is served."""
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    assert cli.main(["serve", *args]) == cli.WRONG
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_no_comments_at_all(load):
    """TOML has no null."""
    service, _ = load('[service]\ncomment_interval = "none"\n')
    assert ServiceConfig(**service).comment_interval is None
