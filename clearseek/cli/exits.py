"""Exit codes, for scripts.

0: done. 1: a check failed: ``verify`` found a difference, or a row that ``audit --require`` names is not as required.
2: an error that the user can mend, as a message on standard error says. 130: Ctrl-C or SIGTERM ended the command, after
saving. 141: the reader of a pipe went away. 75: a process of a run on several was lost, or another machine
was told to stop; torchrun starts all again.
"""

FAILED, USER_ERROR, LOST, INTERRUPTED, READER_GONE = 1, 2, 75, 130, 141
