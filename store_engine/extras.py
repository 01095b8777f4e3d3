"""What a bare `pip install store-engine` leaves out, and which extra of the package installs it.

The core is what serving needs: PyTorch, NumPy, safetensors and SentencePiece.
"""

import contextlib
from collections.abc import Iterator

from store_engine.errors import InputError

# extra of pyproject.toml -> the modules for which it is asked for
MODULES = {
    "cli": ("rich", "shtab"),
    "data": ("pyarrow",),
    "prepare": ("duckdb",),
    "train": ("deepspeed", "faiss", "jinja2", "markupsafe", "scipy", "sklearn"),
    "backbones": ("gguf", "peft", "tokenizers"),
    "export": ("huggingface_hub", "transformers"),
    "serve": ("fastapi", "prometheus_client", "pydantic", "ray", "starlette", "uvicorn"),
    "watch": ("matplotlib", "tensorboard"),
    "gpu": ("triton",),
}


class MissingExtraError(InputError, ImportError):
    """A module that an extra installs is not there; the message names the extra."""


@contextlib.contextmanager
def needs(what: str, extra: str | None = None) -> Iterator[None]:
    """Says which extra is missing when an import inside fails for it.

    with needs("plot"):
        from matplotlib.figure import Figure

    Args:
        what: Who needs it, as the message begins.
        extra: The one that has all that is needed; by default the one that has the module.

    Raises:
        MissingExtraError: A module of `MODULES` is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        own = next((name for name, modules in MODULES.items() if module in modules), None)
        if own is None:
            raise
        wanted = f"'store-engine[{extra or own}]'"
        raise MissingExtraError(
            f"{what} needs {module}, which is not installed: pip install {wanted}"
        ) from error
