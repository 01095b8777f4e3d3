"""What requests and answers hold, in JSON: types are not converted, unknown keys are refused."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Id = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Text = Annotated[str, StringConstraints(max_length=100_000)]
Unknown = Literal["error", "skip"]


class _Message(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class _Question(_Message):
    history: list[Id] | None = Field(
        None, description="item ids, oldest first; empty: somebody unknown"
    )
    user: Id | None = Field(
        None,
        description="in place of a history: whose, with all events that the server was told of",
    )
    unknown: Unknown = Field(
        "error", description="what to do with a user or ids in the history that nobody has or had"
    )

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if (self.history is None) == (self.user is None):
            raise ValueError("either history or user must be given")
        return self


class _Timed(_Message):
    timeout_ms: int | None = Field(
        None, ge=1, description="answer within this time or not at all; at most the server's limit"
    )


class Recommend(_Question):
    """What is asked about one history: the items most likely to follow."""

    k: int = Field(10, ge=1, description="items wanted; the server has a limit")
    exclude: list[Id] = Field(
        default_factory=list, description="items not to recommend; unknown ids do no harm"
    )
    allow: list[Id] | None = Field(None, description="recommend none but these")
    exclude_history: bool | None = Field(None, description="by default the run's choice")
    beam_width: int | None = Field(None, ge=1, description="by default the run's; at least k")


class RecommendRequest(Recommend, _Timed):
    """Asks for the items most likely to follow a history."""


class RecommendBatchRequest(_Timed):
    """Asks about many histories at once."""

    requests: list[Recommend] = Field(min_length=1, description="the server has a limit")


class ScoreRequest(_Question, _Timed):
    """Asks how likely given items are to follow a history."""

    items: list[Id] = Field(min_length=1, description="item ids")


class ExplainRequest(_Question, _Timed):
    """Asks why an item has its score after a history."""

    item_id: Id


class ItemText(_Message):
    """An item by its text."""

    item_id: Id
    text: dict[str, Text] = Field(description="by field of the catalogue; one left out is empty")


class ItemsRequest(_Message):
    """Items that are added, or whose text and with it perhaps SID is replaced."""

    items: list[ItemText] = Field(min_length=1)


class RemoveItemsRequest(_Message):
    """Removes items, which histories may go on naming."""

    item_ids: list[Id] = Field(min_length=1)


class NewEvent(_Message):
    """Somebody did something with an item."""

    user_id: Id = Field(description="a new one is a new user")
    item_id: Id
    time: float = Field(description="in the unit of the data's times; orders a user's events")


class AddEventsRequest(_Message):
    """Goes on with the histories of users."""

    events: list[NewEvent] = Field(min_length=1)
    unknown: Unknown = Field(
        "error", description="what to do with events of items that nobody has or had"
    )


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
    unknown: list[str] = Field(description="the user, or ids of the history, left out")


class RecommendResponse(_Answer):
    """The items most likely to follow, best first."""

    items: list[Item]


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


class RecommendBatchResponse(_Message):
    """An answer to every request, in that order; an error is of its request alone."""

    answers: list[RecommendResponse | ErrorResponse]


class ScoreResponse(_Answer):
    """The items that were asked for, in that order."""

    items: list[ScoredItem]


class EventReason(_Message):
    """What one event of the history has to do with the item."""

    item_id: str
    evidence: float = Field(description="its vote for the item, weighed by its age")
    share: float = Field(description="of the votes of all events")
    logprob_gain: float = Field(
        description="how much likelier the LLM finds the item because of it"
    )
    shared_codes: int = Field(description="how many first codes both semantic IDs share")


class ExplainResponse(_Answer):
    """Why an item has its score."""

    item_id: str
    sid: list[int]
    score: float
    logprob: float
    evidence: float
    history: list[EventReason] = Field(description="the events that the engine reads")


class ItemSid(_Message):
    """An item that was read, and the semantic ID that it got."""

    item_id: str
    sid: list[int]


class ChangeResponse(_Message):
    """A change that no crash can lose any more."""

    sequence: int = Field(description="number of the change")
    visible: bool = Field(description="whether every replica has it already; else it will soon")


class ItemsResponse(ChangeResponse):
    """Items that were added or updated."""

    items: list[ItemSid]
    remarks: list[str] = Field(
        [], description="what to look at, such as texts unlike those that training saw"
    )


class AddEventsResponse(ChangeResponse):
    """Events that were added."""

    num_skipped: int = Field(description="events left out, because nobody has their item")


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
