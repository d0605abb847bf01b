"""The calls of data sets and uploads as data, used by both clients. Sends nothing."""

from __future__ import annotations

from raymill.client import dataset_types as types
from raymill.client.endpoints import VERIFY_TIMEOUT_S, Call, Id, Listing, at
from raymill.client.types import Dataset, Job, Pipeline


def datasets(name: str | None) -> Listing[Dataset]:
    return Listing(path=at("datasets"), item=Dataset, query={"name": name})


def dataset(name: str, number: int | None) -> Call[types.DatasetDetail]:
    return Call(path=at("datasets", name), query={"number": number}, returns=types.DatasetDetail)


def add_dataset(body: types.DatasetRequest) -> Call[Pipeline]:
    return Call(method="POST", path=at("datasets"), body=body, returns=Pipeline)


def validate(body: types.CheckRequest) -> Call[Job]:
    return Call(method="POST", path=at("datasets", "validate"), body=body, returns=Job)


def rows(name: str, number: int | None, part: types.Part) -> Listing[types.DatasetRow]:
    query = {"number": number, "part": part}
    return Listing(path=at("datasets", name, "rows"), item=types.DatasetRow, query=query)


def look(name: str, verb: str, body: types.TokenRequest) -> Call[Job]:
    """`stats` or `preview` with a base."""
    return Call(method="POST", path=at("datasets", name, verb), body=body, returns=Job)


def from_traffic(body: types.TrafficRequest) -> Call[Pipeline]:
    return Call(method="POST", path=at("datasets", "from-traffic"), body=body, returns=Pipeline)


def begin_upload(body: types.UploadRequest) -> Call[types.Upload]:
    return Call(method="POST", path=at("uploads"), body=body, returns=types.Upload)


def upload(upload_id: Id) -> Call[types.Upload]:
    return Call(path=at("uploads", upload_id), returns=types.Upload)


def send_piece(upload_id: Id, offset: int, content: bytes) -> Call[types.Upload]:
    # Not sent again as it is: after a broken connection it begins where the service says.
    return Call(
        method="PUT",
        path=at("uploads", upload_id),
        content=content,
        headers={"Upload-Offset": str(offset), "Content-Type": "application/octet-stream"},
        returns=types.Upload,
        timeout_s=VERIFY_TIMEOUT_S,
        repeatable=False,
    )
