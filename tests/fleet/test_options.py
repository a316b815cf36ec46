"""`Shared`: what a user may write, and what is said of what may not."""

from __future__ import annotations

import builtins
import pickle

import pytest
from pydantic import ValidationError

from langchain_resilient import MissingExtraError, ResilientChatModel, Shared
from langchain_resilient.fleet.link import connect

SECRET = "pa55-word"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://h:1/2", "redis://h:1/2"),
        (f"rediss://user:{SECRET}@h:1/0?ssl_cert_reqs=none", "rediss://h:1/0"),
        (f"redis://:{SECRET}@h", "redis://h"),
        (f"unix://user@/run/redis.sock?db=1&password={SECRET}", "unix:///run/redis.sock"),
        (f"valkey://u:{SECRET}@h:1", "valkey://h:1"),
        (f"redis+cluster://u:{SECRET}@h:1", "redis+cluster://h:1"),
        (f"redis+sentinel://u:{SECRET}@a:1,b:2/m/0", "redis+sentinel://a:1,b:2/m/0"),
    ],
)
def test_a_url_is_taken_and_its_password_shown_nowhere(url, address):
    """Not by the option, nor by the model that has it."""
    shared = Shared(url, namespace="team")
    assert shared.address == address
    model = ResilientChatModel(targets=["text:yes"])
    seen = f"{shared!r} {shared} {shared.model_dump()} {shared.model_dump_json()}"
    fields = ResilientChatModel.model_construct(**model.__dict__ | {"shared": shared})
    seen += f"{fields!r} {fields._identifying_params}"
    assert SECRET not in seen
    assert "user:" not in seen
    assert pickle.loads(pickle.dumps(shared)) == shared  # noqa: S301


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"http://u:{SECRET}@h", "has http://; known are redis://"),
        (f"{SECRET}@h:6379", "has no scheme"),
        ("redis://", "names no server"),
        (f"redis://u:{SECRET}@", "names no server"),
        (f"redis+sentinel://u:{SECRET}@a:1,b:2", "ends in the name of its master"),
    ],
)
def test_a_wrong_url_is_an_error_that_names_no_password(url, said):
    """Given to the option or to the model."""
    for make in (Shared, lambda shared: ResilientChatModel(targets=["text:yes"], shared=shared)):
        with pytest.raises(ValidationError, match=said) as caught:
            make(url)
        assert SECRET not in str(caught.value)
        assert SECRET not in repr(caught.value)


@pytest.mark.parametrize("namespace", ["two words", "", "a/b", "x" * 65, "{tag}"])
def test_a_namespace_is_one_plain_word(namespace):
    """Else it would be a part of other keys, or of a cluster's slot."""
    with pytest.raises(ValidationError, match="no spaces"):
        Shared("redis://h", namespace=namespace)


@pytest.mark.parametrize(
    "fields", [{"timeout": 0}, {"timeout": 11}, {"processes": 0}, {"unknown": 1}]
)
def test_other_fields_have_bounds(fields):
    """And none is ignored."""
    with pytest.raises(ValidationError):
        Shared("redis://h", **fields)


def test_a_missing_package_is_said_when_the_model_is_made(monkeypatch):
    """With what to install."""
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.split(".")[0] == "redis":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingExtraError, match=r"langchain-resilient\[shared\]"):
        ResilientChatModel(targets=["text:yes"], shared="redis://h")


def test_urls_become_clients_of_redis_py():
    """With one timeout and no retries of their own; a Sentinel's master is asked for by name."""
    pytest.importorskip("redis")
    options = connect(Shared(f"rediss://u%40x:{SECRET}@h:7/3")).connection_pool.connection_kwargs
    assert options["username"] == "u@x"
    assert options["password"] == SECRET
    assert (options["host"], options["port"], options["db"]) == ("h", 7, 3)
    assert options["socket_timeout"] == options["socket_connect_timeout"] == 0.25
    assert options["retry"].get_retries() == 0
    pool = connect(Shared(f"redis+sentinel://u:{SECRET}@a:1,b/m/4")).connection_pool
    assert pool.service_name == "m"
    assert pool.connection_kwargs["password"] == SECRET
    assert pool.connection_kwargs["db"] == 4
    known = [one.connection_pool.connection_kwargs for one in pool.sentinel_manager.sentinels]
    assert [(one["host"], one["port"]) for one in known] == [("a", 1), ("b", 26379)]
