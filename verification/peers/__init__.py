"""Differences from ChatOpenAI and ChatTogether: the same calls, over the same simulated servers.

For each call both models are asked, whole and as a stream: the bodies that they send, the messages
that they give and the LangChain errors that they raise are compared field by field. Whatever
differs must be listed in `reasons.py` with its reason; `docs/differences.md` is written from there.
"""
