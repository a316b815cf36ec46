"""`python -m langchain_resilient.providers.local` fetches the weights and prints their path."""

from __future__ import annotations

import sys

from langchain_resilient.providers.local.weights import WeightsError, ensure_weights


def main() -> int:
    """Fetch the weights ahead of their first use.

    Returns:
        0, 1 after an error, or 130 after Ctrl-C.
    """
    try:
        sys.stdout.write(f"{ensure_weights()}\n")
    except WeightsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
