"""One limit, one purse, one health for many processes: what they share through Redis (or Valkey).

`options` is what a user writes; `link` the one thread and connection of a process; `limits`,
`health` and `money` the local faces of what is shared. The scripts (`*.lua`) run in Redis.
"""
