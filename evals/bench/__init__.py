"""What the gateway costs a request: its speed beside other gateways and bare pass-throughs, on one machine.

`upstream` is the model that is pretended, `load` the clients, `floors` the bare pass-throughs; each runs in a process
of its own. `targets` says how every gateway is installed and started, `machine` starts, pins and watches processes,
`measure` runs the rounds, `figures` makes medians and ratios of them, `page` writes them down.
"""
