"""Why a credential was turned down: for our own log, never for the caller."""


class RejectedError(Exception):
    """A credential is no good."""

    def __init__(self, reason: str, *, expired: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.expired = expired
