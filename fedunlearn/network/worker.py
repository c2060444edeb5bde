"""A worker process: one thread, one store, commands as lines of JSON on standard input.

Started by :class:`fedunlearn.network.workers.Workers` as ``python -m fedunlearn.network.worker``. Messages name a
program and a range of vertices; arrays travel through the shared store only.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

from fedunlearn.errors import UserError, out_of_memory
from fedunlearn.network.block import Block
from fedunlearn.network.execute import execute


def main() -> None:
    """Answer commands until standard input closes."""
    torch.set_num_threads(1)
    replies = sys.stdout
    sys.stdout = sys.stderr  # a stray print of a user's module must not break the protocol
    block: Block | None = None
    for line in sys.stdin:
        try:
            command = json.loads(line)
            if command["kind"] == "open":
                block = Block(Path(command["folder"]))
                answer: dict[str, Any] = {}
            elif command["kind"] == "rest":  # the store is about to go: its memory must not be held on to
                block = None
                answer = {}
            else:
                if block is None:
                    raise RuntimeError("no store has been opened")
                answer = execute(block, command)
        except UserError as error:
            answer = {"error": str(error)}
        except Exception as error:
            told = out_of_memory(error)
            answer = {"failure": traceback.format_exc()} if told is None else {"error": str(told)}
        replies.write(json.dumps(answer) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
