"""What this machine is, and why it refuses: read once something was refused, never before.

The modules, from facts to errors:

    facts        `Machine`: the sysctls, filters, security modules and container that decide, as plain data
    reading      those facts from /proc, /sys and the environment
    subordinate  the program and the ranges that map more than one id
    remedies     what to type, for this machine, in the place where it runs (Docker, Podman, GitHub Actions, …)
    causes       a kernel's refusal and a `Machine` in, the cause and its remedy out; pure functions
    explain      the builder's error with its cause found
"""
