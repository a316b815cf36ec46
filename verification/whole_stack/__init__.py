"""The whole stack in virtual time: the real model, the real SDKs, the real server, one event loop.

Nothing is mocked between `ResilientChatModel` and the bytes of the provider: the OpenAI and
Together SDKs run on their HTTP transports over the loop's own loopback, against
`ProviderSimulator`. Only time is not real: the loop's clock jumps to whatever is due next, so an
hour of outage costs milliseconds, and a seed replays a run to the microsecond.

- `virtual`: the loop, and what makes the transports run on it.
- `scenario`, `mixture`: what is asked of whom, written down or drawn from a seed.
- `callers`, `world`: the callers, and one run of a scenario.
- `verdict`: the conditions that hold after every run.
- `trace`: what happened, line by line, and its hash.

`python -m verification.whole_stack --seeds 1000` runs many mixtures; `--seed 17` replays one and
prints its timeline.
"""
