"""Runs the service with uvicorn: the command `langchain-resilient serve`."""

from __future__ import annotations

import gc
import logging
import signal
import socket
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from langchain_resilient.errors import MissingExtraError
from langchain_resilient.service.config import ServiceConfig, load_config, model_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    import uvicorn

    from langchain_resilient.chat_model import ResilientChatModel

DESCRIPTION = """\
Serve the chain as an OpenAI-compatible HTTP service, at 127.0.0.1:8000 unless told otherwise.
Clients ask for the model "resilient", or for a target of the chain by its name. SIGTERM lets
answers under way end. A TOML file may set every option: see docs/service.md."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command that are its own."""
    add = parser.add_argument
    add("-c", "--config", metavar="FILE", help="a TOML file; flags go before what it says")
    add("--host", help="the address to listen at (default 127.0.0.1)")
    add("--port", type=int, metavar="N", help="the port (default 8000; 0 for any that is free)")
    add(
        "--client-key",
        action="append",
        metavar="KEY",
        help="a key that clients must send; several may be given. Others on this machine can read "
        'it in the list of processes: "env:NAME" names an environment variable',
    )
    add("--open-to-all", action="store_true", default=None, help="no key, whatever the address")
    add("--name", metavar="MODEL", help='what clients call the whole chain (default "resilient")')
    add("--log-level", default="info", choices=("debug", "info", "warning", "error"))


def configured(
    args: argparse.Namespace, environ: Any, join: Callable[[dict[str, Any]], dict[str, Any]]
) -> tuple[ServiceConfig, ResilientChatModel]:
    """Join the file and the flags.

    Args:
        args: The parsed arguments.
        environ: The environment.
        join: Joins the table `[model]` with the flags that belong to the model.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If something in either is wrong; names it.
    """
    service, model = load_config(args.config, environ) if args.config else ({}, {})
    keys = [_key(given, environ) for given in args.client_key or ()]
    flags = {
        "host": args.host,
        "port": args.port,
        "client_keys": keys or None,
        "open_to_all": args.open_to_all,
        "name": args.name,
    }
    service = {**service, **{k: v for k, v in flags.items() if v is not None}}
    return ServiceConfig(**service), model_of(join(model))


def _key(given: str, environ: Any) -> str:
    if not given.startswith("env:"):
        return given
    name = given.removeprefix("env:")
    if not environ.get(name):
        msg = f"--client-key: the environment variable {name} is not set"
        raise ValueError(msg)
    return str(environ[name])


def server_for(
    llm: ResilientChatModel,
    config: ServiceConfig,
    on_started: Callable[[], object] | None = None,
) -> uvicorn.Server:
    """Make the server that serves a model.

    Args:
        llm: The model.
        config: How it is served.
        on_started: Is called when it is ready.

    Raises:
        MissingExtraError: Without the extra `serve`; says how to install it.
    """
    try:
        import uvicorn  # noqa: PLC0415  # only those who serve have it

        from langchain_resilient.service.app import create_app  # noqa: PLC0415
    except ImportError as error:
        msg = 'the service needs an extra: pip install "langchain-resilient[serve]"'
        raise MissingExtraError(msg) from error
    protocol: Any = "h11"
    if find_spec("httptools") is not None:  # else h11, the other one with a bound on heads
        from langchain_resilient.service.http import bounded  # noqa: PLC0415  # as above

        protocol = bounded(config)
    settings = uvicorn.Config(
        create_app(llm, config, on_started=on_started),
        host=config.host,
        port=config.port,
        http=protocol,
        ws="none",
        lifespan="on",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        h11_max_incomplete_event_size=config.max_header_bytes,
        timeout_keep_alive=config.idle_timeout,
        timeout_graceful_shutdown=config.drain_seconds,
        ssl_certfile=config.tls_certificate,
        ssl_keyfile=config.tls_key,
    )
    return uvicorn.Server(settings)


def start_log(level: str) -> None:
    """Write what uvicorn and this package log to standard error.

    Args:
        level: The least that is written, as `--log-level` has it.
    """
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    for name in ("uvicorn", "langchain_resilient"):
        logging.getLogger(name).setLevel(level.upper())


def _check_address(host: str, port: int) -> None:
    """Find out before the start whether anybody else listens there: uvicorn only logs that."""
    if not port:
        return
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as trying:
            if sys.platform != "win32":  # where it would let two listen
                trying.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trying.bind(address)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        msg = f"nothing can be served at {host}:{port}: {reason}; see --host and --port"
        raise OSError(msg) from error


def serve(llm: ResilientChatModel, config: ServiceConfig) -> None:
    """Serve a model until SIGTERM or SIGINT; then let the answers under way end.

    Blocks: it is a program's last call.

    Args:
        llm: The model.
        config: How it is served.

    Raises:
        MissingExtraError: Without the extra `serve`; says how to install it.
        OSError: If the address cannot be listened at: the port is taken, say.
    """
    server = server_for(llm, config, _spare_what_lasts)
    _check_address(config.host, config.port)
    # uvicorn repeats the signal when all is done; after SIGTERM that is an end like any other.
    signal.signal(signal.SIGTERM, lambda *_: None)
    server.run()


def _spare_what_lasts() -> None:
    """Keep modules and classes out of garbage collection, which stood still 90 ms for them."""
    gc.collect()
    gc.freeze()
