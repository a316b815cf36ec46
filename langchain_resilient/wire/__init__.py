"""Pure functions between LangChain messages and the chat-completions format.

```
messages           LangChain messages -> request messages; repairs conversations with tool calls
tool_calls         tools -> request parameters; fragments of tool calls -> calls
structured_output  schemas -> request parameters, parsers, and checks of the answer
json_modes         a request for JSON in one mode -> the same in another, and the answer back
json_schema        a value and a schema -> what does not match
chunk_parser       one choice of one chunk -> a `Delta`; knows every oddity of the wire
accumulator        all chunks of one attempt -> its text, usage and fault
passthrough        the same for targets that are LangChain models
output             an answer -> `ChatResult`; chunk by chunk -> `ChatGenerationChunk`
continuation       an answer that broke off -> the request to continue it, and how to join the two
```

Nothing in this package knows a provider, a policy or an event loop.
"""
