"""What is asked of a sandbox and what came of it: pure data, no system call, no pytest."""
