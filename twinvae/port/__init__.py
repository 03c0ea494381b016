"""Anyone's port of the VAE as a backend: a Python file with `encode` and `decode`, run in a process of its own.

`twinvae.registry` asks here for every name that is a file or `package.module:name`; docs/bring-your-port.md says what
a port may be.
"""

from twinvae.port.errors import NotTaken, PortError
from twinvae.port.module import Port, port
from twinvae.port.source import is_port, label_of, parsed
from twinvae.port.vae import Budget, PortVAE

__all__ = ["Budget", "NotTaken", "Port", "PortError", "PortVAE", "is_port", "label_of", "parsed", "port"]
