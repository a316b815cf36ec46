"""Judges that nobody here wrote: servers by others, before which our client has to answer.

`make judges` (`python -m verification.judges`) installs each into its own place, starts it on
loopback ports, drives `ResilientChatModel` with both SDKs against it, and prints what that proved.
"""
