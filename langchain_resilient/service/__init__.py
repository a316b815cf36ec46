"""An OpenAI-compatible HTTP service over one `ResilientChatModel`: `langchain-resilient serve`."""
