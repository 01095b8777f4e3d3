"""The trie that people write for transformers' prefix hook."""

from collections.abc import Iterable, Sequence

from torch import Tensor


class DictTrie:
    """Nested Python dicts, walked from the root for every prefix.

    Args:
        paths: The codes, or tokens, of every item.
    """

    def __init__(self, paths: Iterable[Sequence[int]]) -> None:
        self._root: dict[int, dict] = {}
        for path in paths:
            node = self._root
            for code in path:
                node = node.setdefault(code, {})

    def following(self, prefix: Tensor) -> list[int]:
        """The codes that continue a prefix (length,) int64.

        Raises:
            KeyError: No item begins so.
        """
        node = self._root
        for code in prefix.tolist():
            node = node[code]
        return list(node)
