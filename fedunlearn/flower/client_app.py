"""The Flower ClientApp: one host of graph vertices, found again by whichever process gets its next message.

``context.state`` of a SuperNode holds a handle and a checksum: the folder of the host's store, the last message that
was carried out, and what the store was then. Rows lie in the store. Where the handle is lost, because the SuperNode was
killed, the folder is found by the names of session and host, and its journal tells what was done (``journal.py``).

A process keeps the hosts it has attached; where another process has handled a message in between, what this one has
open is out of date and is refreshed. In a local run one process handles everything and needs no journal.

Node configuration (``flower-supernode --node-config 'store="..." workers=8'``), all optional:

``store``    folder for stores; default: the run configuration's ``store``, else shared memory
``workers``  one-thread processes of this host; default: ``runtime.workers``, else the ClientApp itself
``data``     file with this SuperNode's own samples (``fedunlearn data split``)
"""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp

from fedunlearn.data import FederatedDataset
from fedunlearn.data.split import read_part
from fedunlearn.errors import UserError, out_of_memory
from fedunlearn.flower.codec import Address, decode_request, encode_error, encode_reply
from fedunlearn.flower.journal import RESUME, Journal
from fedunlearn.flower.places import (
    LASTING,
    adopt,
    find_store,
    new_store,
    owner_of_stores,
    place_of,
    remove_store,
    store_root,
)
from fedunlearn.network.borders import Beside
from fedunlearn.network.host import Host
from fedunlearn.network.store import Store
from fedunlearn.network.transport import Reply, Request

_HANDLE = "fedunlearn.host"
_attached: dict[str, tuple[int, Host]] = {}  # store folder -> the last message this process knows of, and the host

app = ClientApp()


@app.query()
def answer(message: Message, context: Context) -> Message:
    """Carry out the request in a message; a UserError travels back as its sentence."""
    carry_out = _in_one_process if LASTING in context.node_config else _journalled
    address = Address("", -1, -1)  # of a message that cannot be taken apart
    try:
        request, address = decode_request(message.content)
        content = encode_reply(carry_out(request, address, context), address)
    except UserError as error:
        content = encode_error(error, address)
    except Exception as error:
        if (told := out_of_memory(error)) is None:
            raise
        content = encode_error(UserError(f"host {address.host} on '{platform.node()}': {told}"), address)
    return Message(content, reply_to=message)


# --- one process -----------------------------------------------------------------------------------------------------


def _in_one_process(request: Request, address: Address, context: Context) -> Reply:
    if request.op == "setup":
        _forget(context)
        folder = new_store(os.getpid())
        _attached[str(folder)] = (address.sequence, _create(folder, request, context))
        _remember(context, folder, address, "")
        return Reply()
    handle = _handle(context)
    if handle is None:
        raise UserError(f"a host that was never set up was asked for '{request.op}'; start the run again")
    folder, last = Path(str(handle["folder"])), int(handle["sequence"])  # type: ignore[arg-type]
    if address.sequence != last + 1:
        raise UserError(f"host {address.host} got message {address.sequence} after message {last}")
    host = _attach(folder, last)
    if request.op == "close":
        del context.state[_HANDLE]
    else:
        _remember(context, folder, address, "")
        _attached[str(folder)] = (address.sequence, host)
    return host.handle(request)


# --- any process, any number of times --------------------------------------------------------------------------------


def _journalled(request: Request, address: Address, context: Context) -> Reply:
    """Carry out a message once, whichever process it comes to and however often; see the module's description."""
    root = store_root(str(context.node_config.get("store", "")), str(context.run_config.get("store", "")))
    folder = find_store(root, address.session, address.host)
    if request.op == "setup":
        return _set_up(_as_configured(request, context), address, context, root, folder)
    if request.op == "close":
        return _close(address, context, folder)
    if folder is None:
        raise UserError(
            f"host {address.host} was asked for '{request.op}', but machine '{platform.node()}' has no store of "
            f"this session in '{root}'; hosts that change machines need a `store` that all machines share; {RESUME}"
        )
    journal = Journal(folder, address.session, address.host)
    with journal.held():
        handle = _handle(context)
        before = (str(folder), address.sequence - 1)
        known = handle is not None and (handle["folder"], handle["sequence"]) == before
        done = journal.answer(address.sequence, str(handle["checksum"]) if known and handle is not None else None)
        if done is not None:
            return done
        if not known:
            adopt(folder, *owner_of_stores())
        journal.begin(address.sequence)
        host = _attach(folder, address.sequence - 1, partial(find_store, root, address.session))
        try:
            reply: Reply | UserError = host.handle(request)
        except UserError as error:
            reply = error
        except BaseException:
            host.workers.close()  # no message finds this host any more but the one that deletes its store
            raise
        _attached[str(folder)] = (address.sequence, host)
        _remember(context, folder, address, journal.finish(address.sequence, reply))
    if isinstance(reply, UserError):
        raise reply
    return reply


def _set_up(request: Request, address: Address, context: Context, root: Path, folder: Path | None) -> Reply:
    """Make the host in a folder of its own, once; a set-up that was broken off is begun again."""
    if folder is not None:
        journal = Journal(folder, address.session, address.host)
        with journal.held():
            if journal.is_done(address.sequence):
                return journal.answer(address.sequence) or Reply()
            Store(folder).remove()
    _forget(context)
    owner, kept = owner_of_stores()
    folder = new_store(owner, root=root, session=address.session, host=address.host, kept=kept)
    journal = Journal(folder, address.session, address.host)
    with journal.held():
        journal.open()
        journal.begin(address.sequence)
        try:
            host = _create(folder, request, context, partial(find_store, root, address.session))
        except BaseException:
            Store(folder).remove()
            raise
        reply = Reply({"place": place_of(root, address.session)})
        _remember(context, folder, address, journal.finish(address.sequence, reply))
    _attached[str(folder)] = (address.sequence, host)
    return reply


def _close(address: Address, context: Context, folder: Path | None) -> Reply:
    """End the host and delete its store, whatever its journal says was broken off; one that is gone needs nothing.

    Raises UserError for a store of another session or host.
    """
    if folder is not None:
        journal = Journal(folder, address.session, address.host)
        with suppress(FileNotFoundError), journal.held():  # not there: it has just been deleted
            journal.check_owner()
            _end(folder)
    _forget(context)
    return Reply()


def _as_configured(request: Request, context: Context) -> Request:
    """Return the set-up with what the SuperNode's own configuration says; UserError for a GPU that it does not see."""
    if not isinstance(request.params, dict):
        return request  # the host refuses it
    params: dict[str, Any] = dict(request.params)
    if params.get("device") == "cuda":
        from torch import cuda

        if not cuda.is_available():
            raise UserError(
                f"runtime.device = 'cuda', but a host on '{platform.node()}' sees no GPU (CUDA_VISIBLE_DEVICES = "
                f"'{os.environ.get('CUDA_VISIBLE_DEVICES', '')}'); give it one (client-resources-num-gpus on Ray), or "
                "set runtime.device = 'cpu'"
            )
    elif "workers" in context.node_config:
        workers = context.node_config["workers"]
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
            raise UserError(f"node config: workers = {workers!r} is not a number of processes (allowed: 0, 1, 2, ...)")
        params["workers"] = workers
    return replace(request, params=params)


def _own_data(request: Request, path: Path) -> FederatedDataset:
    """Return the samples in the file that the node configuration names; UserError unless they are this host's."""
    part, params = read_part(path), request.params
    low, high = params["block"]
    vertices = request.arrays.get("order", np.arange(params["num_nodes"]))[low:high]
    part.check(params["dataset"], vertices, params.get("part"))
    return part.dataset


# --- hosts that this process has open --------------------------------------------------------------------------------


def _create(folder: Path, request: Request, context: Context, beside: Beside | None = None) -> Host:
    own = partial(_own_data, request, Path(str(context.node_config["data"]))) if "data" in context.node_config else None
    try:
        return Host.create(folder, request.params, request.arrays, own, beside)
    except BaseException:
        Store(folder).remove()
        raise


def _attach(folder: Path, last: int, beside: Beside | None = None) -> Host:
    """Return the host of a store as message ``last`` left it, taken out of those that are open."""
    seen, host = _attached.pop(str(folder), (last, None))
    if host is None:
        return Host.attach(folder, beside)
    if seen != last:
        host.refresh()
    return host


def _forget(context: Context) -> None:
    """End the host that this SuperNode has a handle of, if any, and delete its store."""
    handle = _handle(context)
    if handle is None:
        return
    _end(Path(str(handle["folder"])))
    del context.state[_HANDLE]


def _end(folder: Path) -> None:
    """End the workers of a host that this process has open, if any, and delete its store."""
    if str(folder) in _attached:
        _attached.pop(str(folder))[1].workers.close()
    remove_store(folder)


def _remember(context: Context, folder: Path, address: Address, checksum: str) -> None:
    handle = {"folder": str(folder), "sequence": address.sequence, "checksum": checksum}
    context.state[_HANDLE] = ConfigRecord(handle)  # type: ignore[arg-type]


def _handle(context: Context) -> ConfigRecord | None:
    return context.state.config_records[_HANDLE] if _HANDLE in context.state else None
