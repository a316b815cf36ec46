"""What prompts of a batch cost, and what of that became no answer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_resilient.prices import was_refused
from langchain_resilient.receipt import Outcome

if TYPE_CHECKING:
    from langchain_resilient.receipt import Receipt


class Money(NamedTuple):
    """Dollars.

    Attributes:
        spent: All of them.
        wasted: Of these, for what became no answer.
    """

    spent: float = 0.0
    wasted: float = 0.0

    def __add__(self, other: Any) -> Money:
        """Add two sums."""
        return Money(self.spent + other.spent, self.wasted + other.wasted)


def as_wasted(receipt: Receipt, prompt_tokens: int) -> Receipt:
    """Make the receipt of a cancelled call count as paid in vain, whatever came of it.

    Args:
        receipt: The call's.
        prompt_tokens: What its prompt has, about: of a call that was cut short nobody says.
    """
    attempts = tuple(
        a
        if was_refused(a)
        else replace(
            a,
            outcome=Outcome.CANCELLED if a.outcome is Outcome.WON else a.outcome,
            input_tokens=prompt_tokens if a.input_tokens is None else a.input_tokens,
        )
        for a in receipt.attempts
    )
    return replace(receipt, attempts=attempts, winner=None)
