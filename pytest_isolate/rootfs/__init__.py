"""The root file system of a sandbox, as a plan of frozen mount operations.

`plan` holds the operations, `survey` looks at the host's mounts, `devices` makes the ``/dev`` template,
`host` builds ``rootfs="host"`` from them. Nothing here starts a process; the builder imports all of it.
"""
