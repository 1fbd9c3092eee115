"""Bridge networks: how sandboxes reach one another, the host and the outside.

One process, the hub, lives in a network namespace of the run, which holds the bridges; everything in it vanishes with it.
"""
