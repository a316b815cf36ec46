"""The connection of a process to what its fleet shares: outages, forks, pickles, secrets."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
import warnings

import pytest

from langchain_resilient import ResilientChatModel, Shared, SharedStateWarning, SpendCap, Target
from langchain_resilient.fleet import link as links
from langchain_resilient.fleet.link import Link, link_of
from langchain_resilient.fleet.overview import overview
from langchain_resilient.runtime.shared_state import SHARED_STATE
from langchain_resilient.testing import ProviderSimulator
from verification.kit.redis_server import MISSING, RedisServer, free_port, installed

KEY = "sk-canary-key-of-the-fleet"
PASSWORD = "canary-pa55word"


@pytest.fixture
def sim():
    with ProviderSimulator() as simulator:
        yield simulator


def model(sim, shared, **fields):
    target = Target("openai:m", base_url=sim.base_url("openai"), api_key=KEY, price=(1, 1))
    return ResilientChatModel(targets=[target], shared=shared, **fields)


def wait_for(condition, seconds=5.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_models_of_one_server_share_a_limit_and_others_do_not(sim, redis_server):
    """By server and namespace; without `shared` nothing of theirs is touched."""
    one, two = model(sim, redis_server.url), model(sim, Shared(redis_server.url))
    other = model(sim, Shared(redis_server.url, namespace="other"))
    alone = model(sim, None)
    limiters = [m._ready().chain[0].state.keys[0].rate_limiter for m in (one, two, other, alone)]
    assert limiters[0] is limiters[1]
    assert len({id(limiter) for limiter in limiters}) == 3
    assert alone._ready()._shared is SHARED_STATE


def test_a_further_model_adds_nothing_to_what_is_served(sim, redis_server):
    """Programs make a model for each request: what it shares must not grow with them."""
    model(sim, redis_server.url)._ready()
    served = list(link_of(Shared(redis_server.url))._parts)
    for _ in range(3):
        model(sim, redis_server.url)._ready()
    assert link_of(Shared(redis_server.url))._parts == served


def test_models_that_learn_apart_add_nothing_to_what_is_served(sim, redis_server, redis_client):
    """What is of the key is of the fleet, so they share it; their circuit breakers go with them."""
    model(sim, redis_server.url)._ready()
    link = link_of(Shared(redis_server.url))
    served = list(link._parts)
    models = [model(sim, redis_server.url, share_learning=False) for _ in range(3)]
    states = [one._ready().chain[0].state for one in models]
    assert link._parts == served
    assert len({id(state.circuit_breaker) for state in states}) == 3
    assert len({id(state.speed) for state in states}) == 3
    assert len({id(state.keys[0].rate_limiter) for state in states}) == 1
    (health,) = [part for part in link._parts if part.script == "health"]
    assert len(health._all_breakers()) == 4
    del models, states
    gc.collect()
    assert len(health._all_breakers()) == 1
    assert sum(map(len, health._keys.values())) == 1


def test_the_server_holds_no_prompt_no_answer_and_no_key(sim, redis_server, redis_client):
    """Of the key only a hash under which nobody finds it."""
    sim.limit("openai:*", requests_per_minute=6000)
    llm = model(sim, redis_server.url)
    answers = llm.batch(["canary prompt"] * 5)
    link = link_of(Shared(redis_server.url))
    wait_for(lambda: link.operations > 1 and not link.away)
    wait_for(lambda: llm.stats(fleet=True).calls == 5)
    held = ""
    for name in redis_client.scan_iter("*"):
        kind = redis_client.type(name)
        value = redis_client.hgetall(name) if kind == "hash" else ""
        held += f"{name} {value} "
        if kind == "zset":
            held += str(redis_client.zrange(name, 0, -1))
        if kind == "list":
            held += str(redis_client.lrange(name, 0, -1))
    assert "openai:m" in held
    assert "first," in held
    for secret in (KEY, KEY[:12], "canary", answers[0].text[:10]):
        assert secret not in held


@pytest.mark.parametrize("kind", ["redis", "redis+cluster", "redis+sentinel"])
def test_an_unreachable_server_is_one_warning_and_a_share(sim, caplog, kind):
    """Every call is answered; the password stands in no message."""
    pytest.importorskip("redis")
    url = f"{kind}://user:{PASSWORD}@127.0.0.1:1/0"
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        llm = model(sim, Shared(url, processes=4))
        assert len(llm.batch([f"q{i}" for i in range(5)])) == 5
        link = link_of(Shared(url, processes=4))
        wait_for(lambda: link.away)
        assert llm.invoke("more").text
    said = [str(one.message) for one in caught if one.category is SharedStateWarning]
    assert len(said) == 1
    assert "its share of the limits" in said[0]
    assert PASSWORD not in said[0] + caplog.text
    assert "user:" not in said[0] + caplog.text
    limiter = llm._ready().chain[0].state.keys[0].rate_limiter
    assert limiter.alone
    assert limiter.members == 4


def test_a_required_server_is_an_error_when_the_model_is_made(sim):
    """Which says where and why, and not the password."""
    pytest.importorskip("redis")
    with pytest.raises(ConnectionError, match=r"127.0.0.1:1.* cannot be used") as caught:
        model(sim, Shared(f"redis://:{PASSWORD}@127.0.0.1:1/0", required=True))
    assert PASSWORD not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_wrong_password_is_a_warning_too(sim):
    """Not a reason to answer nobody."""
    if not installed():
        pytest.skip(MISSING)
    with RedisServer("--requirepass", "right") as server:
        wrong = server.url.replace("://", f"://:{PASSWORD}@")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", SharedStateWarning)
            assert model(sim, wrong).batch(["a", "b"])
            wait_for(lambda: link_of(Shared(wrong)).away)
        assert PASSWORD not in str(caught[0].message)
        right = server.url.replace("://", "://:right@")
        assert model(sim, Shared(right, required=True)).invoke("a").text


@pytest.mark.parametrize("harm", ["killed", "frozen", "full", "of another version"])
def test_a_server_in_trouble_costs_no_call_and_is_used_again(sim, harm):
    """Within two seconds of its return, with one warning for all outages."""
    if not installed():
        pytest.skip(MISSING)
    sim.limit("openai:*", requests_per_minute=6000)
    with RedisServer() as server:
        shared = Shared(server.url)
        llm = model(sim, shared)
        llm.batch(["a"] * 4)
        link = link_of(shared)
        limiter = llm._ready().chain[0].state.keys[0].rate_limiter
        wait_for(lambda: limiter.operations and limiter.active)
        client = links.connect(shared)
        key = limiter.keys(link.prefix)[0]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", SharedStateWarning)
            if harm == "killed":
                server.kill()
            elif harm == "frozen":
                server.freeze()
            elif harm == "full":
                client.config_set("maxmemory", "1")
            else:
                client.hset(key, "version", 99)
            assert len(llm.batch([f"b{i}" for i in range(30)])) == 30
            reason = {"full": "maxmemory", "of another version": "version 99"}.get(harm, "")
            wait_for(lambda: link.away and reason in link.away)
            assert llm.invoke("c").text
        assert len(caught) == 1
        if harm == "killed":
            server.start()
        elif harm == "frozen":
            server.thaw()
        elif harm == "full":
            client.config_set("maxmemory", "0")
        else:
            client.delete(key)
        back = time.monotonic()
        wait_for(lambda: not link.away)
        assert time.monotonic() - back < 2
        assert len(llm.batch([f"d{i}" for i in range(10)])) == 10
        client.close()
    links.forget_links()


@pytest.fixture
def tls(tmp_path):
    """A server with TLS, whose certificate is its own; and where that is."""
    openssl = shutil.which("openssl")
    if openssl is None or not installed():
        pytest.skip(f"openssl, or {MISSING}")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-keyout", str(key), "-out", str(certificate), "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    try:
        server = RedisServer("--port", "0", "--tls-cert-file", str(certificate),
                             "--tls-key-file", str(key), "--tls-auth-clients", "no")  # fmt: skip
        server._options += ("--tls-port", str(server.port), "--requirepass", PASSWORD)
        with server:
            yield server.port, certificate
    except AssertionError as error:
        pytest.skip(f"a Redis without TLS: {error}")


def shares(sim, shared):
    """Whether two models at the server use one limit of it, and its overview says so."""
    sim.limit("openai:*", requests_per_minute=6000)
    llm = model(sim, shared, spend_cap=SpendCap(5, name="team"))
    assert len(llm.batch(["a"] * 3)) == 3
    link = link_of(shared)
    wait_for(lambda: not link.away and "openai:m: 6,000 requests" in overview(shared), 10)
    shown = overview(shared)
    assert "fleet  1 process" in shown
    assert "cap    team: $" in shown
    assert PASSWORD not in shown
    wait_for(lambda: llm.stats(fleet=True).calls == 3)


def test_a_server_with_tls(sim, tls):
    """With a password, and a certificate that is known; one that is not is a warning."""
    port, certificate = tls
    base = f"rediss://:{PASSWORD}@localhost:{port}/0"
    shares(sim, Shared(f"{base}?ssl_ca_certs={certificate}"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SharedStateWarning)
        assert model(sim, Shared(base)).batch(["a", "b"])
        wait_for(lambda: link_of(Shared(base)).away)
    assert "CERTIFICATE_VERIFY_FAILED" in str(caught[0].message)
    assert PASSWORD not in str(caught[0].message)


def test_a_user_with_few_rights(sim):
    """Its own keys, and nothing that administers the server, is enough."""
    if not installed():
        pytest.skip(MISSING)
    import redis

    with RedisServer("--requirepass", "another") as server:
        with redis.Redis(port=server.port, password="another") as admin:
            rights = ["reset", "on", f">{PASSWORD}", "~lcr1:*", "+@all", "-@admin", "-@dangerous"]
            admin.execute_command("ACL", "SETUSER", "worker", *rights)
        shares(sim, Shared(server.url.replace("://", f"://worker:{PASSWORD}@")))


def test_the_master_of_a_sentinel(sim, tmp_path):
    """Whose address the Sentinel says."""
    if not installed():
        pytest.skip(MISSING)
    with RedisServer("--requirepass", PASSWORD) as master:
        settings = tmp_path / "sentinel.conf"
        settings.write_text(
            f"sentinel monitor main 127.0.0.1 {master.port} 1\nsentinel auth-pass main {PASSWORD}\n"
        )
        with RedisServer(program_options=(str(settings), "--sentinel")) as sentinel:
            shares(sim, Shared(f"redis+sentinel://:{PASSWORD}@127.0.0.1:{sentinel.port}/main"))


def test_a_cluster(sim, tmp_path):
    """Whose keys are at several servers: nothing is sent to them at once."""
    if not installed():
        pytest.skip(MISSING)
    import redis

    with RedisServer("--cluster-enabled", "yes", "--cluster-port", str(free_port())) as server:
        with redis.Redis(port=server.port) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            wait_for(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))
        shares(sim, Shared(f"redis+cluster://127.0.0.1:{server.port}"))


FORKS = """
import os, sys
from langchain_resilient import ResilientChatModel, Target
base, url = sys.argv[1:]
target = Target("openai:m", base_url=base, api_key="k")
llm = ResilientChatModel(targets=[target], shared=url)
llm.batch(["a"] * 3)
from langchain_resilient.fleet import link
member = [one.member for one in link._links.values()]
child = os.fork()
if not child:
    answers = llm.batch(["b"] * 3)
    ours = [one.member for one in link._links.values()]
    away = [one.away for one in link._links.values()]
    sys.stdout.write(f"{len(answers)} {ours != member} {away}")
    sys.stdout.flush()
    os._exit(0)
os.waitpid(child, 0)
assert len(llm.batch(["c"] * 3)) == 3
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nobody forks here")
def test_a_forked_process_is_a_member_of_its_own(sim, redis_server):
    """With a connection and a thread of its own; the parent goes on."""
    sim.limit("openai:*", requests_per_minute=6000)
    done = subprocess.run(
        [sys.executable, "-c", FORKS, sim.base_url("openai"), redis_server.url],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "3 True ['']"


def test_a_pickled_model_shares_where_it_arrives(sim, redis_server):
    """With the password, which it needs there."""
    llm = model(sim, Shared(redis_server.url, namespace="pickled"))
    copy = pickle.loads(pickle.dumps(llm))  # noqa: S301
    assert copy.shared == llm.shared
    assert copy.invoke("a").text
    one, two = (m._ready().chain[0].state.keys[0].rate_limiter for m in (llm, copy))
    assert one is two


def test_threads_with_loops_of_their_own_share_one_link(sim, redis_server):
    """Of several models too: one thread of ours serves them all."""
    sim.limit("openai:*", requests_per_minute=6000)
    shared = Shared(redis_server.url, namespace="threads")
    models = [model(sim, shared), model(sim, shared, max_tokens=9)]
    texts = []

    def ask(llm):
        texts.append(asyncio.run(llm.ainvoke("a")).text)

    threads = [threading.Thread(target=ask, args=(llm,)) for llm in models * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(texts) == 6
    wait_for(lambda: models[0].stats(fleet=True).calls == 6)
    ours = [t for t in threading.enumerate() if t.name == "langchain-resilient-fleet"]
    assert len([t for t in ours if t is link_of(shared)._thread]) == 1


def test_a_defect_of_a_part_does_not_end_the_thread(redis_server, monkeypatch):
    """It is logged; the others are served."""
    monkeypatch.setattr(links, "RETRY_SECONDS", 0.01)

    class Broken:
        script = "lease"
        tries = 0

        def due_at(self):
            if self.tries < 2:
                return -1.0
            return float("inf")

        def keys(self, prefix):
            self.tries += 1
            raise KeyError(prefix)

        def lost(self, now):
            pass

        forked = granted = request = lost

    link = Link(Shared(redis_server.url))
    broken = Broken()
    link.add(broken)
    wait_for(lambda: broken.tries == 2)
    link.flush()
