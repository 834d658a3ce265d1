"""The exceptions that a user is meant to read: what was given, what was expected, what to run next."""

from __future__ import annotations


class VisRLError(Exception):
    """A wrong input or a missing thing. The command line prints it as one message and leaves with exit_code."""

    exit_code = 1


class Terminated(VisRLError):
    """SIGTERM, as a cluster sends it before it ends a job; finished work is kept. Exit code 143, as of a shell."""

    exit_code = 143


class UsageError(VisRLError):
    """An option that is unknown, malformed or out of its range."""

    exit_code = 2
