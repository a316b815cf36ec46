"""Malformed answers: some hundreds here, a hundred thousand with `make fuzz-wire`."""

from __future__ import annotations

import sys
from random import Random

import pytest

from verification.fuzz import hostile
from verification.fuzz.batches import BYTES, drawn, memory_batch, socket_batch
from verification.fuzz.decoding import WAYS, decode
from verification.fuzz.nonsense import Dice

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # what servers leave, not we
]


def test_a_malformed_answer_is_a_fault_or_an_answer():
    """Through both SDKs without sockets, in virtual time; nothing crashes, hangs or stays open."""
    assert memory_batch(drawn(160, 1)).problems == []


def test_malformed_http_is_a_fault_or_an_answer():
    """Over real sockets: broken framing, lies about lengths, no HTTP at all."""
    random = Random(1)
    assert socket_batch([random.randbytes(BYTES) for _ in range(60)]).problems == []


@pytest.mark.parametrize("way", range(len(WAYS)))
def test_any_bytes_can_be_decoded(way):
    """What atheris does with more patience."""
    random = Random(way)
    for _ in range(150):
        assert decode(bytes([way]) + random.randbytes(random.randint(0, 120)))


FOUND = [
    b'\x00\x00\x03data: {"choices":[{"index":[[]],"delta":{"content":"x"}}]}\n\n',
    b'\x01{"choices":[{"logprobs":1' + b"0" * 400 + b',"message":{"content":"x"}}]}',
    b'\x01{"usage":{"prompt_tokens":1' + b"0" * 400 + b'},"choices":[{"message":{"content":"x"}}]}',
]


@pytest.mark.parametrize("data", FOUND, ids=range(len(FOUND)))
def test_what_was_found_once_is_no_defect_any_more(data):
    """Bytes that `Draft` or `Turn` took for a defect of their own."""
    assert decode(data)


QUICK = [
    "a line without end",
    "an error without end",
    "a bomb in a bomb",
    "choices without end",
    "deep JSON",
    "deep arguments",
    "a header of 10 MB",
    "a redirect to itself",
]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_hostile_size_is_refused_clearly_and_the_next_target_answers():
    """In bounded memory and time; `make fuzz-wire` has them all."""
    assert {one.scene: one.problems() for one in hostile.run(QUICK) if one.problems()} == {}


def test_every_scene_of_the_server_is_expected():
    """Or a new one would not be played."""
    from verification.fuzz.hostile_server import SCENES

    assert SCENES.keys() - {"fallback"} == hostile.EXPECTED.keys()


def test_dice_go_on_when_their_bytes_are_used_up():
    """With the first option, which is the harmless one."""
    dice = Dice(bytes([2, 1]))
    assert [dice.pick("abc") for _ in range(4)] == ["c", "b", "a", "a"]
