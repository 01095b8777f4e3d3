"""Lists of ids as people write them: on a command line, in a field of a csv."""

import json

from store_engine.errors import InputError


def parse_ids(text: str) -> list[str]:
    """Reads a list of ids.

    Args:
        text: `50,181` or a JSON list; spaces around ids do not count, but in JSON. Empty is no id.

    Raises:
        InputError: It begins like a JSON list and is none, or holds something else than ids.
    """
    if text.lstrip().startswith("["):
        return _json_ids(text)
    return [item_id.strip() for item_id in text.split(",") if item_id.strip()]


def _json_ids(text: str) -> list[str]:
    try:
        ids = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f'a list of ids that begins with \'[\' must be JSON, such as ["50", "181"], got {text}'
        ) from error
    for item_id in ids:
        if not isinstance(item_id, str) and type(item_id) is not int:
            raise InputError(f"an item id must be a string, got {json.dumps(item_id)}")
    return [str(item_id) for item_id in ids]
