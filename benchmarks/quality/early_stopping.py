"""When a training ends, and which of its weights are kept."""

from torch import Tensor, nn


class EarlyStopping:
    """Keeps the weights of the epoch that validation liked best.

    Args:
        model: Trained by the caller.
        patience: Epochs without a better validation after which training should stop.
    """

    def __init__(self, model: nn.Module, patience: int) -> None:
        self._model, self._patience = model, patience
        self.best_epoch, self._best_score = 0, float("-inf")
        self._kept = self._weights()

    def should_stop(self, epoch: int, score: float) -> bool:
        """Notes what validation says after an epoch; higher is better, of equals the first."""
        if score > self._best_score:
            self.best_epoch, self._best_score = epoch, score
            self._kept = self._weights()
        return epoch - self.best_epoch >= self._patience

    def restore(self) -> None:
        """Puts the best weights back into the model."""
        self._model.load_state_dict(self._kept)

    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self._model.state_dict().items()}
