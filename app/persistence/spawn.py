"""A program of its own, run by path: give up root, bind our life to the launcher's, become PostgreSQL.

A program and not a `preexec_fn`, because code between fork and exec in a process with threads can deadlock. It
imports four modules and costs about 20 ms.
"""

import ctypes
import os
import signal
import sys

# <sys/prctl.h>
PR_SET_PDEATHSIG = 1

# Above what PostgreSQL's programs answer with; read by `embedded.py`.
EXIT_PARENT_GONE = 120
EXIT_CANNOT_BECOME = 121
EXIT_CANNOT_REACH = 122
EXIT_CANNOT_EXECUTE = 123

# `check` looks at paths and ends; anything else is the number of the signal to die by.
CHECK = "check"


def main(arguments: list[str]) -> int:
    """Do what `mode parent uid gid argv...` says; returns only when it failed, or when it only had to look."""
    mode, parent, uid, gid, *rest = arguments
    if int(uid) != os.geteuid():
        try:
            os.setgroups([])
            os.setgid(int(gid))
            os.setuid(int(uid))
        except OSError as error:
            sys.stderr.write(f"cannot become uid {uid}: {error.strerror}\n")
            return EXIT_CANNOT_BECOME
    os.umask(0o077)
    if mode == CHECK:
        for path in rest:
            try:
                os.stat(path)  # noqa: PTH116 - pathlib would double the time that this program takes
            except OSError as error:
                sys.stderr.write(f"{path}: {error.strerror}\n")
                return EXIT_CANNOT_REACH
        return 0
    # After setuid: the kernel forgets the death signal when credentials change (prctl(2)).
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(mode), 0, 0, 0)
    # The launcher may have died before prctl: then no signal will ever come.
    if os.getppid() != int(parent):
        return EXIT_PARENT_GONE
    # Ignored signals stay ignored across exec; PostgreSQL needs its own.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGPIPE, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execv(rest[0], rest)  # noqa: S606 - becoming another program is what this one is for
    except OSError as error:
        sys.stderr.write(f"cannot execute {rest[0]}: {error.strerror}\n")
    return EXIT_CANNOT_EXECUTE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
