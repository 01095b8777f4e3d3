"""What requests and answers hold, in JSON: types are not converted, unknown keys are refused."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Id = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Text = Annotated[str, StringConstraints(max_length=100_000)]


class _Message(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _Question(_Message):
    history: list[Id] = Field(description="item ids, oldest first; empty: somebody unknown")
    unknown: Literal["error", "skip"] = Field(
        "error", description="what to do with ids in the history that no item has or had"
    )
    timeout_ms: int | None = Field(
        None, ge=1, description="answer within this time or not at all; at most the server's limit"
    )


class RecommendRequest(_Question):
    """Asks for the items most likely to follow a history."""

    k: int = Field(10, ge=1, description="items wanted; the server has a limit")
    exclude: list[Id] = Field([], description="items not to recommend; unknown ids do no harm")
    allow: list[Id] | None = Field(None, description="recommend none but these")
    exclude_history: bool | None = Field(None, description="by default the run's choice")
    beam_width: int | None = Field(None, ge=1, description="by default the run's; at least k")


class ScoreRequest(_Question):
    """Asks how likely given items are to follow a history."""

    items: list[Id] = Field(min_length=1, description="item ids")


class NewItem(_Message):
    """An item to be added."""

    item_id: Id
    text: dict[str, Text] = Field(description="one text for every field of the catalogue")


class AddItemsRequest(_Message):
    """Adds items by their text."""

    items: list[NewItem] = Field(min_length=1)


class RemoveItemsRequest(_Message):
    """Removes items, which histories may go on naming."""

    item_ids: list[Id] = Field(min_length=1)


class Item(_Message):
    """A ranked item."""

    item_id: str
    score: float = Field(description="what it is ranked by: logprob plus evidence")
    logprob: float = Field(description="log-probability of its semantic ID after the history")


class ScoredItem(_Message):
    """An item that was asked for; without a score if it is not in the catalogue now."""

    item_id: str
    score: float | None
    logprob: float | None


class _Answer(_Message):
    run: str = Field(description="name of the run that answered")
    sequence: int = Field(description="the last change of the catalogue that the answer knows")
    unknown: list[str] = Field([], description="ids of the history that were left out")


class RecommendResponse(_Answer):
    """The items most likely to follow, best first."""

    items: list[Item]


class ScoreResponse(_Answer):
    """The items that were asked for, in that order."""

    items: list[ScoredItem]


class AddedItem(_Message):
    """An item that was added."""

    item_id: str
    sid: list[int]


class ChangeResponse(_Message):
    """A change that no crash can lose any more."""

    sequence: int = Field(description="number of the change")
    visible: bool = Field(description="whether every replica has it already; else it will soon")


class AddItemsResponse(ChangeResponse):
    """Items that were added."""

    items: list[AddedItem]
    remarks: list[str] = Field(
        [], description="what to look at, such as texts unlike those that training saw"
    )


class ReplicaStatus(_Message):
    """One replica."""

    replica: str
    run: str
    sequence: int


class StatusResponse(_Message):
    """How the server is."""

    status: Literal["ok", "not ready"]
    run: str
    sequence: int
    replicas: list[ReplicaStatus]


class ErrorDetail(_Message):
    """What is wrong with one part of a request."""

    where: str
    message: str


class Error(_Message):
    """What went wrong."""

    type: str
    message: str
    details: list[ErrorDetail] = []


class ErrorResponse(_Message):
    """Every answer that is none."""

    error: Error
