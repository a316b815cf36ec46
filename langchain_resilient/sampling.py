"""The sampling fields, shared by a model (for all its targets) and by a `Target` (for itself)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


StopWords = Annotated[list[str], BeforeValidator(_as_list)]


class Sampling(BaseModel):
    """How text is drawn from a model. None leaves a parameter to the provider's default.

    What a provider's API does not take (`top_k` at OpenAI) is left out for that provider, with one
    warning.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid",
        # A key in a misspelt or misplaced argument would stand in the error.
        hide_input_in_errors=True,
    )

    temperature: float | None = Field(default=None, ge=0, le=2)
    """Randomness, 0 to 2."""
    max_tokens: int | None = Field(default=None, ge=1)
    """The longest answer, in tokens."""
    top_p: float | None = Field(default=None, ge=0, le=1)
    """Draw from the smallest set of tokens with this total probability, 0 to 1."""
    top_k: int | None = Field(default=None, ge=1)
    """Draw from this many of the likeliest tokens."""
    min_p: float | None = Field(default=None, ge=0, le=1)
    """Drop tokens less likely than this share of the likeliest, 0 to 1."""
    stop: StopWords | None = None
    """The answer ends before any of these."""
    seed: int | None = None
    """For repeatable answers, as far as a provider can."""
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    """Against words in proportion to how often they came, -2 to 2."""
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    """Against words that came at all, -2 to 2."""
    repetition_penalty: float | None = Field(default=None, gt=0)
    """Together's and llama.cpp's own penalty; 1 is none."""
    logit_bias: dict[str, float] | None = None
    """Added to the score of a token id, -100 to 100."""
    logprobs: bool | None = None
    """Ask for the log probability of each token."""
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    """Ask for those of this many likeliest tokens, 0 to 20."""
    n: int | None = Field(default=None, ge=1, le=128)
    """How many answers to one prompt, 1 to 128."""
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Any other parameter of the chat-completions API, sent as it is."""

    def sampling_params(self) -> dict[str, Any]:
        """Those that are set, as chat-completions parameters."""
        found = {
            name: value
            for name in SAMPLING_FIELDS
            # An empty `stop` is LangChain's way to say none; OpenAI refuses `[]`.
            if (value := getattr(self, name)) is not None and value != []
        }
        found.update(self.model_kwargs)
        return found


SAMPLING_FIELDS = tuple(name for name in Sampling.model_fields if name != "model_kwargs")
"""The names of the fields, in order."""
