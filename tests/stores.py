"""An S3 server on loopback, and places for libraries in it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from moto.server import ThreadedMotoServer
from pyarrow import fs

BUCKET = "bucket"


@dataclass(frozen=True, slots=True)
class Place:
    """A folder in the bucket of the server at `address`. Files are named relative to it."""

    address: str
    folder: str

    @property
    def uri(self) -> str:
        return f"s3://key:secret@{BUCKET}/{self.folder}?endpoint_override={self.address}&scheme=http&region=us-east-1"

    @property
    def files(self) -> fs.S3FileSystem:
        return fs.S3FileSystem(
            access_key="key",
            secret_key="secret",
            endpoint_override=self.address,
            scheme="http",
            region="us-east-1",
            allow_bucket_creation=True,
        )

    def names(self, below: str = "") -> set[str]:
        root = f"{BUCKET}/{self.folder}/"
        infos = self.files.get_file_info(fs.FileSelector(root + below, recursive=True, allow_not_found=True))
        return {info.path.removeprefix(root) for info in infos if info.type == fs.FileType.File}

    def read(self, name: str) -> bytes:
        with self.files.open_input_stream(f"{BUCKET}/{self.folder}/{name}") as stream:
            return bytes(stream.read())

    def write(self, name: str, data: bytes) -> None:
        with self.files.open_output_stream(f"{BUCKET}/{self.folder}/{name}") as stream:
            stream.write(data)

    def delete(self, name: str) -> None:
        self.files.delete_file(f"{BUCKET}/{self.folder}/{name}")


@contextmanager
def s3_server() -> Iterator[str]:
    """Run a server with an empty bucket and yield its address."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        Place(f"{host}:{port}", "").files.create_dir(BUCKET)
        yield f"{host}:{port}"
    finally:
        server.stop()
