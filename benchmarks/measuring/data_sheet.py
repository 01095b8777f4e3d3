"""What GPUs can do at best, by their data sheets: the roofs that figures are held against."""

from typing import NamedTuple

import torch

from store_engine.training.throughput import BF16_PEAKS


class DataSheet(NamedTuple):
    """What a GPU can do at best; dense products."""

    bf16_flops: float  # per second
    float32_flops: float
    bandwidth: float  # bytes per second

    def milliseconds(self, num_bytes: float, flops: float, dtype: torch.dtype) -> float:
        """What work takes at least: the longer of moving its bytes and of its operations."""
        peak = self.bf16_flops if dtype is torch.bfloat16 else self.float32_flops
        return 1e3 * max(num_bytes / self.bandwidth, flops / peak)


# the SXM boards, by what is in torch.cuda.get_device_name()
DATA_SHEETS = {
    "A100-SXM4-80GB": DataSheet(BF16_PEAKS["A100"], 19.5e12, 2.04e12),
    "H100 80GB HBM3": DataSheet(BF16_PEAKS["H100"], 67e12, 3.35e12),
    "H200": DataSheet(BF16_PEAKS["H200"], 67e12, 4.8e12),
}


H100 = DATA_SHEETS["H100 80GB HBM3"]


def data_sheet(device: str) -> DataSheet | None:
    """Of the GPU that is used; None for one that is not in the table."""
    if not device.startswith("cuda"):
        return None
    name = torch.cuda.get_device_name(device)
    return next((sheet for key, sheet in DATA_SHEETS.items() if key in name), None)
