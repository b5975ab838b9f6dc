"""The gateway's face over a running proxy."""

from .gateway import RemoteGateway

__all__ = ["RemoteGateway"]
