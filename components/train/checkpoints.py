"""Checkpoints in object storage: written after every epoch and on SIGTERM; a damaged one is not used."""

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
    """`checkpoints/<digest>/epoch-0007-<sha256 of the content>.pt`; an object with another digest is not used."""

    def __init__(self, digest: str, storage: Storage | None = None):
        self.storage = storage or Storage(f"s3://{work_bucket()}/checkpoints/{digest[:32]}")
        self.sender = ThreadPoolExecutor(1)
        self.sending: Future | None = None

    def load(self) -> dict | None:
        """Return the newest intact checkpoint; None without one. Files that would run code are refused."""
        for _, key, digest in sorted(self._kept(), reverse=True):
            blob = self.storage.get(key)
            if hashlib.sha256(blob).hexdigest()[:16] != digest:
                logging.warning("checkpoint %s is damaged and was skipped", key)
                continue
            try:
                return torch.load(io.BytesIO(blob), weights_only=True, map_location="cpu")
            except Exception as error:  # torch raises many kinds of errors for a foreign file
                if is_out_of_memory(error):
                    raise
                reason = str(error).partition(chr(10))[0][:120]
                logging.warning("checkpoint %s was not written by a training and is refused: %s", key, reason)
        return None

    def save(self, epoch: int, state: dict) -> None:
        """Send a checkpoint in the background, after the one before it. A failure is logged; training continues."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self.wait()
        self.sending = self.sender.submit(self._send, epoch, buffer.getvalue())

    def wait(self) -> None:
        """Wait until the checkpoint is sent."""
        if self.sending is None:
            return
        try:
            self.sending.result()
            self.storage.patience = PATIENCE_SECONDS
        except StepError as error:
            self.storage.patience = 0  # so that an unavailable store does not delay every epoch
            logging.warning("a checkpoint was not saved, training continues: %s", error)
        self.sending = None

    def _send(self, epoch: int, blob: bytes) -> None:
        new = f"epoch-{epoch:04d}-{hashlib.sha256(blob).hexdigest()[:16]}.pt"
        older = [key for e, key, _ in self._kept() if e <= epoch and key != new]
        self.storage.put(new, blob)
        self.storage.delete(older)

    def _kept(self) -> list[tuple[int, str, str]]:
        found = ((KEY.match(o.key), o.key) for o in self.storage.list())
        return [(int(match[1]), key, match[2]) for match, key in found if match]
