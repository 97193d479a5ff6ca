"""A web application for the people at this computer: who may ask, what answers carry, and how it runs."""

import contextlib
import ipaddress
import logging
import socket
from urllib.parse import urlsplit

log = logging.getLogger(__name__)

CONNECTIONS = 64
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self' blob:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
}


def require(package: str):
    """Raises ValueError where a package that serves pages is missing."""
    try:
        __import__(package)
    except ImportError:
        raise ValueError(f"serve needs the package {package}: pip install starlette uvicorn") from None


def _address(name):
    """An address in digits, None for other names."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(name)


class Guard:
    """Refuses requests that reach this server under a foreign name or from a foreign page; adds headers to answers.

    A foreign name is one that somebody else's name server may have pointed here (DNS rebinding). Addresses in digits
    cannot be meant so.

    Args:
        app: the application behind.
        names: of this server, in lower case, beside ``localhost``.
    """

    def __init__(self, app, names):
        self.app, self.names = app, names | {"localhost"}

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def send_with_headers(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in HEADERS.items())]
            await send(message)

        from starlette.responses import JSONResponse

        sent = dict(scope["headers"])
        host, origin = sent.get(b"host", b"").decode("latin-1"), sent.get(b"origin")
        app = self.app
        if not self.known(host):
            app = JSONResponse({"error": "this page is not served under the name that was asked for"}, 400)
        elif origin is not None and origin.decode("latin-1").partition("://")[2] != host:
            app = JSONResponse({"error": "requests of other pages are not answered"}, 403)
        await app(scope, receive, send_with_headers)

    def known(self, host):
        """Whether the name of a Host header belongs to this server."""
        with contextlib.suppress(ValueError):
            name = (urlsplit(f"//{host}").hostname or "").lower()
            return name in self.names or _address(name) is not None
        return False


def make_server(app, host: str = "127.0.0.1", port: int = 8000):
    """A server of the application, whose port is taken already.

    Args:
        app: an ASGI application.
        host: address to listen at; anything but this computer's own lets others in.
        port: 0 takes any that is free.

    Returns:
        server with ``run(sockets=[socket])``, the socket, and the address of the page.

    Raises:
        ValueError: the address cannot be had, or the package is missing.
    """
    require("uvicorn")
    import uvicorn

    if not 0 <= port < 1 << 16:
        raise ValueError(f"port is {port}, expected 0 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen()  # whoever asks from now on waits for the server
    except OSError as error:
        listening.close()
        raise ValueError(f"cannot listen at {host} port {port} ({error.strerror}): choose another port") from None
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, limit_concurrency=CONNECTIONS
    )
    shown = f"[{host}]" if family == socket.AF_INET6 else host
    return uvicorn.Server(config), listening, f"http://{shown}:{listening.getsockname()[1]}/"


def serve(app, host: str = "127.0.0.1", port: int = 8000):
    """Serves the page until it is interrupted.

    Args:
        app, host, port: see :func:`make_server`.

    Raises:
        ValueError: see :func:`make_server`.
    """
    server, listening, address = make_server(app, host, port)
    print(f"search page: {address} (stop with Ctrl+C)", flush=True)
    if host != "localhost" and not getattr(_address(host), "is_loopback", False):
        log.warning("%s: everybody who reaches this address can search and hear the sounds", address)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listening])
