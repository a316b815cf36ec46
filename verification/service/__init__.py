"""The HTTP service measured: what it adds to an upstream's latency, and what it loses of requests.

Example:
    ```sh
    python -m verification.service overhead --seconds 30
    python -m verification.service faults --requests 10000
    ```
"""
