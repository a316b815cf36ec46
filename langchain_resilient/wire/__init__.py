"""Pure functions between LangChain messages and the chat-completions format.

```
messages, blocks   LangChain messages -> request messages
tools, structured  tools, schemas -> request parameters and parsers
sse                bytes -> the payloads of server-sent events
reading            one choice of one chunk -> plain pieces; knows every oddity of the wire
calls, choice      the pieces of one tool call, of one choice
draft, native      all chunks of one attempt -> what was said, and whether it is whole
answers, usage     a draft -> ChatResult
deltas             chunk by chunk -> ChatGenerationChunk
continuation       an answer that broke off -> the request to go on, and how to join the two
words              where words begin, and what is an echo
```

Nothing here knows a provider, a policy or an event loop.
"""
