"""Work that ranks share: each does its own parts of it, and all have every result at the end."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class RankShare:
    """This rank's share of work that is cut into numbered parts; by default all of it.

    Args:
        rank: Of this process.
        num_ranks: That share the work, each of which goes through the same parts in one order.
        device: Where the process group communicates.
    """

    rank: int = 0
    num_ranks: int = 1
    device: torch.device | str = "cpu"

    @classmethod
    def of_process_group(cls, device: torch.device | str) -> "RankShare":
        """Makes the share of this rank of the process group."""
        return cls(torch.distributed.get_rank(), torch.distributed.get_world_size(), device)

    def has(self, part: int) -> bool:
        """Whether a part, counted from 0, is this rank's."""
        return part % self.num_ranks == self.rank

    def gather(self, own: NDArray[np.int64]) -> NDArray[np.int64]:
        """Adds up the arrays of all ranks, which every rank calls.

        Args:
            own: Integers, 0 where another rank has the result.

        Returns:
            The same shape, with the results of all.
        """
        if self.num_ranks == 1:
            return own
        total = torch.from_numpy(own).to(self.device, copy=True)
        torch.distributed.all_reduce(total)
        gathered: NDArray[np.int64] = total.cpu().numpy()
        return gathered


ALONE = RankShare()
