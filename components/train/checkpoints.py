"""Training state in object storage: written after every epoch and on SIGTERM, read back whole or not at all."""

import hashlib
import io
import logging
import re
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from components.core.errors import StepError, is_out_of_memory
from components.core.storage import PATIENCE_SECONDS, Storage, work_bucket

KEY = re.compile(r"^epoch-(\d+)-([0-9a-f]{16})\.pt$")


class Checkpoints:
    """`checkpoints/<digest>/epoch-0007-<sha256 of the content>.pt`; an object that is not its digest is not used."""

    def __init__(self, digest: str, storage: Storage | None = None):
        self.storage = storage or Storage(f"s3://{work_bucket()}/checkpoints/{digest[:32]}")
        self.sender = ThreadPoolExecutor(1)
        self.sending: Future | None = None

    def load(self) -> dict | None:
        """The newest whole state, None where there is none. What would run code, or is no state, is refused."""
        for _, key, digest in sorted(self._kept(), reverse=True):
            blob = self.storage.get(key)
            if hashlib.sha256(blob).hexdigest()[:16] != digest:
                logging.warning("checkpoint %s is not whole and was passed over", key)
                continue
            try:
                return torch.load(io.BytesIO(blob), weights_only=True, map_location="cpu")
            except Exception as error:  # whatever torch makes of bytes that are none of its own
                if is_out_of_memory(error):
                    raise
                words = str(error).partition(chr(10))[0][:120]
                logging.warning("checkpoint %s was not written by a training and is refused: %s", key, words)
        return None

    def save(self, epoch: int, state: dict) -> None:
        """Send the state while training goes on; waits for the one before. A failed sending is logged, not fatal."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self.wait()
        self.sending = self.sender.submit(self._send, epoch, buffer.getvalue())

    def wait(self) -> None:
        if self.sending is None:
            return
        try:
            self.sending.result()
            self.storage.patience = PATIENCE_SECONDS
        except StepError as error:
            self.storage.patience = 0  # a store that is gone for good does not hold up every epoch
            logging.warning("a checkpoint was not kept, training goes on: %s", error)
        self.sending = None

    def _send(self, epoch: int, blob: bytes) -> None:
        new = f"epoch-{epoch:04d}-{hashlib.sha256(blob).hexdigest()[:16]}.pt"
        older = [key for e, key, _ in self._kept() if e <= epoch and key != new]
        self.storage.put(new, blob)
        self.storage.delete(older)

    def _kept(self) -> list[tuple[int, str, str]]:
        found = ((KEY.match(o.key), o.key) for o in self.storage.list())
        return [(int(match[1]), key, match[2]) for match, key in found if match]
