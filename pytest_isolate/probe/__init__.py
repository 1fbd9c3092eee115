"""What this machine can give, found by doing it in small: the doctor's examination.

The modules, from one try to all of them:

    capability  `Capability` and `Report`: the result, JSON-able
    attempt     one try in a throw-away child process
    namespaces  user namespace and its siblings, /proc, mounts, overlay, pidfd
    resources   cgroup controllers, the kernel's log, subordinate ids
    disks       file systems of a size, by loop devices
    trial       a whole sandbox, built by the real builder
    keys        which spec keys will work
    examine     all of it
    cache       the last report of this boot

Nothing here runs while sandboxes work: `machine.explain` says why one failed, from facts alone.
"""
