"""Several processes that serve on one port, and their parent. Nothing of it is loaded where there is but one.

```
parent ─┬─ worker 1 ── its own listening socket of the port (SO_REUSEPORT), which the parent holds open
        ├─ worker 2 ── likewise
        └─ one process for each local model; every worker has a connection of its own to it
```

The parent serves no requests. It starts workers again that died, and has what must be one for all: limits and budgets
of keys, stored responses, what died workers counted (where no Redis has the first two), and the settings file as it was
read last.
"""
