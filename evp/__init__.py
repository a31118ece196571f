"""evp: events accepted durably, stored once, and proved to be there."""

__version__ = "0.1.0"

TYPE_CHECKING = False  # As type checkers have it; `typing` would take longer to load than evp.
if TYPE_CHECKING:
    from evp.client.async_client import AsyncClient as AsyncClient
    from evp.client.sync_client import Client as Client

_OFFERED = {"AsyncClient": "evp.client.async_client", "Client": "evp.client.sync_client"}


def __getattr__(name: str) -> object:
    """Load the clients when somebody asks for them: the command needs neither."""
    if name not in _OFFERED:
        raise AttributeError(f"module 'evp' has no attribute {name!r}")
    import importlib  # noqa: PLC0415 - for those only who ask

    return getattr(importlib.import_module(_OFFERED[name]), name)
