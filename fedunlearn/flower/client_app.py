"""The Flower ClientApp: one host of graph vertices, found again by whichever process gets its next message.

``context.state`` of a SuperNode holds a handle: the folder of the host's store, and a count of the messages handled.
A process keeps the hosts it has attached; where the count says that another process has handled a message in between,
what this one has open is out of date and is refreshed.
"""

from __future__ import annotations

from pathlib import Path

from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp

from fedunlearn.errors import UserError
from fedunlearn.flower.codec import decode_request, encode_error, encode_reply
from fedunlearn.network.host import Host
from fedunlearn.network.store import Store, new_folder
from fedunlearn.network.transport import Reply, Request

_HANDLE = "fedunlearn.host"
_attached: dict[str, tuple[int, Host]] = {}  # store folder -> messages handled when this process last saw the host

app = ClientApp()


@app.query()
def answer(message: Message, context: Context) -> Message:
    """Carry out the request in a message; a UserError travels back as its sentence."""
    request, address = decode_request(message.content)
    try:
        content = encode_reply(_carry_out(request, context), address)
    except UserError as error:
        content = encode_error(error, address)
    return Message(content, reply_to=message)


def _carry_out(request: Request, context: Context) -> Reply:
    if request.op == "setup":
        return _set_up(request, context)
    if _HANDLE not in context.state:
        raise UserError(f"a host that was never set up was asked for '{request.op}'; start the run again")
    folder, count = _handle(context)
    seen, host = _attached.pop(folder, (count, None))
    if host is None:
        host = Host.attach(Path(folder))
    elif seen != count:
        host.refresh()
    if request.op == "close":
        del context.state[_HANDLE]
    else:
        context.state[_HANDLE] = ConfigRecord({"folder": folder, "count": count + 1})
        _attached[folder] = (count + 1, host)
    return host.handle(request)


def _set_up(request: Request, context: Context) -> Reply:
    """Make the host in a fresh folder; what an earlier, broken-off run left on this SuperNode is deleted."""
    if _HANDLE in context.state:
        folder, _ = _handle(context)
        if folder in _attached:
            _attached.pop(folder)[1].workers.close()
        Store(Path(folder)).remove()
        del context.state[_HANDLE]
    fresh = new_folder()
    try:
        host = Host.create(fresh, request.params, request.arrays)
    except BaseException:
        Store(fresh).remove()
        raise
    context.state[_HANDLE] = ConfigRecord({"folder": str(fresh), "count": 0})
    _attached[str(fresh)] = (0, host)
    return Reply()


def _handle(context: Context) -> tuple[str, int]:
    record = context.state.config_records[_HANDLE]
    return str(record["folder"]), int(record["count"])  # type: ignore[arg-type]
