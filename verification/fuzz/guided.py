"""The coverage-guided part: atheris breeds bytes that reach new branches of what decodes them.

`python -m verification.fuzz.guided CORPUS_DIRECTORY [libFuzzer's options]`; needs
`pip install atheris` (https://github.com/google/atheris).
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from pathlib import Path
from random import Random

SEEDS = 300
"""Well-formed and spoilt answers to breed from."""

_PROGRESS = 100
_LONGEST = 1000
_END = b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'
_DELTAS = (
    b'{"content":"Hi"}',
    b'{"content":"{\\"a\\": 1}","reasoning":"hm"}',
    b'{"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":"{}"}}]}',
    b'{"refusal":"no","audio":{"id":"a","data":"AA==","transcript":"x"}}',
    b'{"reasoning_details":[{"type":"t","index":0,"text":"x"}],"annotations":[{}]}',
    b'{"function_call":{"name":"f","arguments":"{}"}}',
)
_EVENTS = (
    *(b'{"choices":[{"index":0,"delta":%b,"finish_reason":null}]}' % delta for delta in _DELTAS),
    b'{"choices":[{"index":0,"message":{"content":"Hi"}}],"usage":{"prompt_tokens":1}}',
    b'{"choices":[{"index":0,"delta":{"content":"Hi"},"logprobs":{"content":[{}]},"seed":1}]}',
    b'{"error":{"message":"no","type":"server_error","code":null,"param":"x"}}',
)


def main() -> None:
    """Run libFuzzer; it ends the process itself."""
    import atheris

    with atheris.instrument_imports(include=["langchain_resilient"]):
        from verification.fuzz import decoding

    logging.disable(logging.CRITICAL)
    seed(Path(sys.argv[1]))
    came: Counter[str] = Counter()
    counts = Path(f"{sys.argv[1]}.counts")

    def one(data: bytes) -> None:
        came[decoding.decode(data)] += 1
        if came.total() % _PROGRESS == 0:  # libFuzzer ends without a word to us
            counts.write_text("\n".join(f"{n:9} {what}" for what, n in came.most_common()))

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


def seed(corpus: Path) -> None:
    """Write down what to breed from, beside what was found before."""
    from verification.fuzz.answers import case

    corpus.mkdir(parents=True, exist_ok=True)
    random = Random(0)
    for number in range(SEEDS):
        answer = case(random.randbytes(192)).answer
        streams = any(b"event-stream" in value for _, value in answer.headers)
        head = bytes([0, 0, 0]) if streams else bytes([1])
        (corpus / f"seed-{number}").write_bytes((head + b"".join(answer.pieces))[:_LONGEST])
    for number, event in enumerate(_EVENTS):
        for way in (bytes([0, 0, 0]), bytes([0, 0, 3]), bytes([1])):
            data = (
                event if way == bytes([1]) else b"data: " + event + b"\n\ndata: " + _END + b"\n\n"
            )
            (corpus / f"event-{number}-{way.hex()}").write_bytes(way + data)
    for way in range(2, 6):
        (corpus / f"way-{way}").write_bytes(bytes([way]) + random.randbytes(60))


if __name__ == "__main__":
    main()
