"""What can go wrong, as the user reads it: the rule, the value that breaks it, and the fix."""


class Nat2Error(Exception):
    """A mistake that the user can correct; the command line prints the message and exits with 2."""


class ConfigError(Nat2Error):
    """A setting is outside its range, or settings contradict each other."""


class DataError(Nat2Error):
    """The images cannot be used as they are."""


class ArchError(Nat2Error):
    """An architecture does not belong to the search space."""


class CheckpointError(Nat2Error):
    """Stored weights do not fit the network that they are read into, or the file is damaged."""


class RunError(Nat2Error):
    """The run folder cannot be used: locked, written by another configuration, or the disk is full."""


class SpaceError(Nat2Error):
    """A search space of the user's own breaks a law that searching relies on."""


class DownloadError(Nat2Error):
    """A file cannot be downloaded, or is not the one that was expected."""


class LostProcessError(RunError):
    """Another process of the run was lost, or the connection to it; the same command continues."""

    reported = False
    """Whether another process has noticed it first, and reports it."""
