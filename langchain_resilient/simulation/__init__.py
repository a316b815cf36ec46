"""The real engine in virtual time: hours of traffic over scripted targets in seconds, by seed.

A run is a pure function of its scenario and its seed: the clock jumps (`async-solipsism`), and
every latency is a pure function of (seed, target, request, attempt). So the race, the best possible
policy and the baselines are computed from the very same samples ("common random numbers": Law &
Kelton, Simulation Modeling and Analysis, chapter 11), and a seed replays a run event by event.

Example:
    ```python
    from langchain_resilient.simulation.engine import Rules
    from langchain_resilient.simulation.faults import Hang, Phase
    from langchain_resilient.simulation.run import Scenario, run
    from langchain_resilient.simulation.targets import Script

    targets = (
        Script("first:m", phases=(Phase(600, 1200, Hang()),)),
        Script("second:m"),
    )
    found = run(Scenario(targets, Rules(), rate=20, requests=50_000), seed=1)
    ```
"""
