"""What isolated tests came to, as data and as text. No pytest, no system call."""
