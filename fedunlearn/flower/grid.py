"""A Flower grid without a SuperLink: every host's ClientApp runs in this process, with no sockets and no polling."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedunlearn.flower.places import LASTING

_RUN_ID = _TASK_ID = _CONDUCTOR = 1


def _assume_identity() -> None:
    """Say who sends messages here, as a Flower process would; ``Message(...)`` asks for it. Flower keeps it private."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = _TASK_ID, _RUN_ID, _CONDUCTOR


class LocalGrid(Grid):
    """Hands messages to a ClientApp directly, with one lasting context for each of ``hosts`` SuperNodes.

    Messages to one host are handled in order; hosts work side by side in threads when there are several. What a
    ClientApp raises comes through as it is, so a fault shows its true traceback.
    """

    def __init__(self, client_app: ClientApp, hosts: int = 1) -> None:
        _assume_identity()
        self._app = client_app
        self._run = Run.create_empty(_RUN_ID)
        self._contexts = {
            _CONDUCTOR + 1 + h: Context(
                run_id=_RUN_ID,
                node_id=_CONDUCTOR + 1 + h,
                node_config={"partition-id": h, "num-partitions": hosts, LASTING: True},
                state=RecordDict(),
                run_config={},
            )
            for h in range(hosts)
        }
        self._replies: dict[str, Message] = {}
        self._threads = ThreadPoolExecutor(hosts, thread_name_prefix="host") if hosts > 1 else None

    def close(self) -> None:
        """End the threads."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)

    def __enter__(self) -> LocalGrid:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def set_run(self, run: Run) -> None:
        """Set what :attr:`run` tells."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run as Flower describes it."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return ``Message(content, dst_node_id, message_type)``: the older way to make one."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Return the node ids of the hosts, in host order."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Let the hosts answer, and return the ids by which :meth:`pull_messages` finds their answers."""
        ids: list[str] = []
        queues: dict[int, list[Message]] = {}
        for message in messages:
            message.metadata.__dict__["_message_id"] = str(uuid4())  # as every grid does: metadata has no setter for it
            ids.append(message.metadata.message_id)
            queues.setdefault(message.metadata.dst_node_id, []).append(message)
        # All hosts finish before a fault of one is raised: none is left at work behind the caller's back.
        work = [self._threads.submit(self._deliver, q) for q in queues.values()] if self._threads else []
        if self._threads is None:
            for queue in queues.values():
                self._deliver(queue)
        faults = [f for f in (w.exception() for w in work) if f is not None]
        if faults:
            raise faults[0]
        return ids

    def _deliver(self, queue: list[Message]) -> None:
        for message in queue:
            reply = self._app(message, self._contexts[message.metadata.dst_node_id])
            self._replies[message.metadata.message_id] = reply

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the answers to these messages, each once."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Let the hosts answer and return their replies, in the order of the messages; nothing is waited for."""
        return self.pull_messages(self.push_messages(messages))
