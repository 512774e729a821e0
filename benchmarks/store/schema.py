"""What stored JSON files and tables have to hold: checked when they are read, whoever wrote them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from concord.data.errors import ConcordError
from concord.data.printable import printable

if TYPE_CHECKING:
    import pyarrow as pa

Model = TypeVar("Model", bound="Stored")
Text = Annotated[str, Field(max_length=100_000)]
Count = Annotated[int, Field(ge=0, le=10**9)]
Bytes = Annotated[int, Field(ge=0, le=2**60)]
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Number = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
AGAIN = "remove the row's folder and run `concord run` again"


class Stored(BaseModel):
    """Keys of later versions pass; a value of another kind does not, and nothing is converted."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)


class Data(Stored):
    """The data set that the requests came from, in run.json."""

    name: Text = ""
    fingerprint: Text


class ShardEntry(Stored):
    """One shard of a run in run.json: its number and its requests' ids."""

    shard: Count
    requests: list[Text]
    n: Count | None = None
    sha256: Text | None = None


class RequestEntry(Stored):
    """One request in run.json."""

    id: Annotated[Text, Field(min_length=1)]
    seed: int | None = None


class RunManifest(Stored):
    """run.json."""

    finished: bool
    request_set: Text
    row: Text
    method: Text | None
    profile: Text
    params: dict[str, object]
    conditions: list[Text]
    n: Annotated[int, Field(ge=1, le=10**8)]
    image_size: Annotated[int, Field(ge=1, le=16_384)]
    data: Data
    left_out: dict[str, Count] = Field(default_factory=dict)
    weights: dict[str, Text] = Field(default_factory=dict)
    provenance: dict[str, object]
    device: Text
    seconds_total: Seconds | None = None
    seconds_per_image: Seconds | None
    peak_memory_bytes: Bytes | None
    evaluations_per_image: dict[str, Number] | None
    time: dict[str, Seconds] = Field(default_factory=dict)
    shards: list[ShardEntry]
    requests: list[RequestEntry]
    external: dict[str, object] | None = None

    @model_validator(mode="after")
    def _one_set_of_requests(self) -> RunManifest:
        ids = [request.id for request in self.requests]
        if len(ids) != self.n:
            raise ValueError(f"'n' is {self.n}, but there are {len(ids)} requests")
        if len(set(ids)) != len(ids):
            raise ValueError("'requests': an id is there twice")
        if [name for shard in self.shards for name in shard.requests] != ids:
            raise ValueError("'shards' hold other requests than 'requests'")
        return self


class Card(Stored):
    """A network's card, as far as score.json keeps it."""

    name: Text
    held_out: dict[str, object] = Field(default_factory=dict)


class ReferenceEntry(Stored):
    """The reference set of a set metric, in score.json."""

    name: Text
    fingerprint: Text
    n: Count


class ScoreInfo(Stored):
    """score.json."""

    n: Count
    networks: dict[str, Text]
    metrics: list[Text] | None = None
    weights: dict[str, Text] = Field(default_factory=dict)
    cards: dict[str, Card] = Field(default_factory=dict)
    data: Data | None = None
    reference: ReferenceEntry | None = None
    originals: Text | None = None
    seconds_total: Seconds | None = None
    peak_memory_bytes: Bytes | None = None
    time: dict[str, Seconds] = Field(default_factory=dict)


def parse_stored(path: Path, content: bytes, model: type[Model]) -> dict[str, object]:
    """The JSON object of a stored file that keeps the model; ConcordError names file and field otherwise."""
    try:
        found = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else printable(str(error))
        raise ConcordError(f"{path}: not valid JSON ({reason}); {AGAIN}") from None
    if not isinstance(found, dict):
        raise ConcordError(f"{path}: expected a JSON object; got {type(found).__name__}; {AGAIN}")
    try:
        model.model_validate(found)
    except ValidationError as error:
        raise ConcordError(f"{path}: {_mistake(error)}; {AGAIN}") from None
    return found


def _mistake(error: ValidationError) -> str:
    first = error.errors()[0]
    field = printable(".".join(map(str, first["loc"])))
    message = printable(first["msg"].removeprefix("Value error, ").replace("Input should be", "expected"))
    if first["type"] == "missing":
        return f"field '{field}' is missing"
    if not field:
        return message
    got = ascii(first.get("input"))
    return f"field '{field}': {message}; got {got if len(got) <= 60 else f'{got[:57]}...'}"


SCORE_COLUMNS = {"request": "text", "metric": "text", "value": "number", "status": "text"}
SET_COLUMNS = {
    "metric": "text",
    "value": "number",
    "n": "whole number",
    "n_reference": "whole number",
    "status": "text",
    "replicates": "list of numbers",
}


def check_columns(path: Path, schema: pa.Schema, expected: Mapping[str, str]) -> None:
    """Raise ConcordError unless a parquet file has these columns, of these kinds."""
    import pyarrow as pa

    kinds = {
        "text": lambda one: pa.types.is_string(one) or pa.types.is_large_string(one) or pa.types.is_dictionary(one),
        "number": pa.types.is_floating,
        "whole number": pa.types.is_integer,
        "list of numbers": lambda one: (
            (pa.types.is_list(one) or pa.types.is_large_list(one))
            and (pa.types.is_floating(one.value_type) or pa.types.is_null(one.value_type))
        ),
    }
    for name, kind in expected.items():
        if name not in schema.names:
            raise ConcordError(f"{path}: no column '{name}'; expected {', '.join(expected)}; {AGAIN}")
        found = schema.field(name).type
        if not kinds[kind](found):
            raise ConcordError(f"{path}: column '{name}' holds {found}; expected {kind}; {AGAIN}")
