"""Streams as a user of LangChain meets them, over real sockets."""
