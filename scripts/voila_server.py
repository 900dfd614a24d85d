"""Voila as `app.py` serves it: with a token, checked hosts, few kernels, a library for each visitor from elsewhere, and
sockets of the present protocol only.
"""

import asyncio
import contextvars
import threading
import webbrowser
from pathlib import Path

from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado.web import HTTPError
from traitlets import Bool, Integer, default
from voila.app import Voila
from voila.shutdown_kernel_handler import VoilaShutdownKernelHandler
from voila.tornado.handler import TornadoVoilaHandler

from musekit.config import home

VISITOR = contextvars.ContextVar("visitor")  # the browser that asks for a page
PROTOCOL = "v1.kernel.websocket.jupyter.org"


class Kernels(AsyncMappingKernelManager):
    """At most `limit` kernels at a time: each holds a system in memory.

    private: each visitor has a library of their own, and no folder of this machine (`LibraryView`).
    """

    limit = Integer(4, config=True)
    private = Bool(False, config=True)
    turn = asyncio.Lock()

    async def start_kernel(self, *args, **options) -> str:
        if self.private:
            options["env"] |= {"MUSEKIT_HOME": str(home() / "visitors" / VISITOR.get()), "MUSEKIT_VISITOR": "1"}
        async with self.turn:
            for _ in range(100):  # 10 s: a page that was reloaded may still be closing its first kernel
                if len(self) < self.limit:
                    return await super().start_kernel(*args, **options)
                await asyncio.sleep(0.1)
            raise HTTPError(503, reason=f"{self.limit} visitors are here, the limit; close a page and reload")


class Page(TornadoVoilaHandler):
    """The page, whose kernel is started for its visitor: a signed cookie says who that is."""

    async def prepare(self) -> None:
        await super().prepare()
        if self.current_user:
            VISITOR.set(self.current_user.username)


class Channels(ZMQChannelsWebsocketConnection):
    """A page's socket: of the present protocol only, and the form of its messages is checked before they are read."""

    async def prepare(self) -> None:
        asked = self.websocket_handler.request.headers.get("Sec-WebSocket-Protocol", "")
        if PROTOCOL not in [name.strip() for name in asked.split(",")]:
            raise HTTPError(400, f"this socket needs the protocol {PROTOCOL}")
        await super().prepare()

    def handle_incoming_message(self, incoming_msg) -> None:
        offsets = int.from_bytes(incoming_msg[:8], "little") if isinstance(incoming_msg, bytes) else 0
        if not 2 <= offsets < len(incoming_msg) // 8:
            self.websocket_handler.close(1003, "not a message of this protocol")
        else:
            super().handle_incoming_message(incoming_msg)


class Shutdown(VoilaShutdownKernelHandler):
    """The end of a kernel, asked for by its page as that closes: a request that cannot carry Jupyter's _xsrf."""

    def check_xsrf_cookie(self) -> None:
        """Nothing to check: another origin does not know the kernel's id."""


class App(Voila):
    """Voila that any other user of this machine, or a page of another origin, cannot use."""

    @default("auto_token")
    def _token_by_default(self) -> bool:
        return True

    def init_settings(self) -> dict:
        open_to_others = self.ip not in ("localhost", "127.0.0.1", "::1")
        own = {"allow_remote_access": open_to_others, "kernel_websocket_connection_class": Channels}
        settings = super().init_settings() | own
        self.kernel_manager.private |= open_to_others
        return settings

    def init_handlers(self) -> list:
        ours = {VoilaShutdownKernelHandler: Shutdown, TornadoVoilaHandler: Page}
        return [(path, ours.get(kind, kind), *rest) for path, kind, *rest in super().init_handlers()]

    def launch_browser(self) -> None:
        """Open the page by a file, as JupyterLab does: the list of processes shows no token."""
        token = self.identity_provider.token
        path = Path(self.connection_dir) / "open.html"  # a folder that only this user can read
        path.write_text(f'<meta http-equiv="refresh" content="0; url={self.connection_url}?token={token}">')
        threading.Thread(target=webbrowser.open, args=(path.as_uri(),), daemon=True).start()
