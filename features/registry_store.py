"""Feast's registry file, replaced in one step. Feast itself writes over it, and a crash leaves half of it."""

from __future__ import annotations

import os
import uuid

from feast.infra.registry.file import FileRegistryStore
from feast.protos.feast.core.Registry_pb2 import Registry
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]


class AtomicRegistryStore(FileRegistryStore):  # type: ignore[misc]
    """A registry file that is whole or absent. One that is damaged reads as absent, and is made anew."""

    def get_registry_proto(self) -> Registry:
        """What the file says.

        Raises:
            FileNotFoundError: it is absent or damaged; Feast then starts an empty one.
        """
        try:
            registry: Registry = super().get_registry_proto()
            return registry
        except DecodeError:
            raise FileNotFoundError(f"the registry {self._filepath} is damaged") from None

    def _write_registry(self, registry_proto: Registry) -> None:
        registry_proto.version_id = str(uuid.uuid4())
        registry_proto.last_updated.GetCurrentTime()
        partial = self._filepath.with_name(f"{self._filepath.name}.{os.getpid()}.partial")
        with partial.open("wb") as file:
            file.write(registry_proto.SerializeToString())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._filepath)
