"""A catalogue and histories out of a seed, for tests and demonstrations.

Every item belongs to a hidden topic. Its text shares words with its topic, and users follow the
topics: they stay with one for a while, walk through its items in a fixed order, and now and then do
something else. So text tells the topic, the last item tells the next, and popularity tells little.
"""

import numpy as np

from store_engine.data.catalog import Catalog
from store_engine.data.histories import Histories
from store_engine.errors import InputError

_SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
_WORDS_PER_TOPIC = 8
_MEAN_LENGTH = 12  # events per user
_NOISE = 0.1  # share of the events that are any item at all; as many change the topic


def synthetic(
    num_items: int, num_users: int, num_topics: int, seed: int
) -> tuple[Catalog, Histories]:
    """Draws a catalogue and histories.

    Args:
        num_items: At least 2.
        num_users: At least 1.
        num_topics: At least 1 and at most `num_items`.
        seed: The same seed gives the same data on every machine.

    Returns:
        The catalogue, with fields `title` (two topic words and one of the item's own) and
        `categories` (the topic's name), and the histories, of at least 3 events each.

    Raises:
        InputError: A size is out of range.
    """
    if num_items < 2 or num_users < 1 or not 1 <= num_topics <= num_items:
        raise InputError(
            f"a synthetic data set needs num_items >= 2, num_users >= 1 and "
            f"1 <= num_topics <= num_items, got {num_items}, {num_users}, {num_topics}"
        )
    rng = np.random.default_rng(seed)
    # every topic has an item; rows are shuffled, so that a row says nothing of the topic
    topic_of = rng.permutation(np.arange(num_items) % num_topics)
    catalog = _catalog(topic_of, num_topics, rng)
    lengths = 3 + rng.poisson(_MEAN_LENGTH - 3, size=num_users)
    rows = _walk(topic_of, num_topics, lengths, rng)
    user_ids = tuple(f"user{user}" for user in range(num_users))
    return catalog, Histories(user_ids, rows, np.concatenate([[0], np.cumsum(lengths)]))


def _catalog(topic_of: np.ndarray, num_topics: int, rng: np.random.Generator) -> Catalog:
    words = _words(num_topics * _WORDS_PER_TOPIC, rng)
    titles, categories = [], []
    for row, topic in enumerate(topic_of.tolist()):
        own = words[topic * _WORDS_PER_TOPIC : (topic + 1) * _WORDS_PER_TOPIC]
        first, second = rng.choice(_WORDS_PER_TOPIC - 1, size=2, replace=False) + 1
        titles.append(f"{own[first]} {own[second]} {row}")
        categories.append(own[0])
    item_ids = tuple(f"item{row}" for row in range(len(topic_of)))
    return Catalog(item_ids, {"title": tuple(titles), "categories": tuple(categories)})


def _words(count: int, rng: np.random.Generator) -> list[str]:
    """Different words of three syllables, more where the topics are many."""
    num_syllables = 3
    while len(_SYLLABLES) ** num_syllables < 4 * count:
        num_syllables += 1
    words: dict[str, None] = {}
    while len(words) < count:
        words["".join(rng.choice(_SYLLABLES, size=num_syllables))] = None
    return list(words)


def _walk(
    topic_of: np.ndarray, num_topics: int, lengths: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """All users' events, one step of every user at a time."""
    num_users, num_items = len(lengths), len(topic_of)
    by_topic = np.argsort(topic_of, kind="stable")
    sizes = np.bincount(topic_of, minlength=num_topics)
    begins = np.cumsum(sizes) - sizes
    topic = rng.integers(num_topics, size=num_users)
    place = rng.integers(sizes[topic])
    events = np.empty((num_users, lengths.max()), dtype=np.int32)
    for step in range(events.shape[1]):
        dice = rng.random(num_users)
        moves = dice < _NOISE
        topic = np.where(moves, rng.integers(num_topics, size=num_users), topic)
        place = np.where(moves, rng.integers(sizes[topic]), (place + 1) % sizes[topic])
        events[:, step] = by_topic[begins[topic] + place]
        strays = (dice >= _NOISE) & (dice < 2 * _NOISE)
        events[strays, step] = rng.integers(num_items, size=int(strays.sum()))
    rows: np.ndarray = events[np.arange(events.shape[1]) < lengths[:, None]]
    return rows
