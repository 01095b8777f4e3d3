import pytest
import torch

from store_engine.inference.item_logits import item_logits, item_logits_ref


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_shared", [False, True])
@pytest.mark.parametrize("num_rows", [40, 2000])  # one product with all rows, or gathered
def test_both_forms_are_a_plain_loop(num_rows, is_shared, dtype):
    generator = torch.Generator().manual_seed(0)
    batch, width, fanout, size = 3, 5, 8, 24
    rows = torch.randn(num_rows, size, generator=generator).to(dtype)
    states = torch.randn(batch, 1 if is_shared else width, size, generator=generator).to(dtype)
    slots = torch.randint(-1, num_rows, (7, fanout), generator=generator, dtype=torch.int32)
    slots[3] = -1  # all of its items were removed
    prefixes = torch.randint(-1, 7, (batch, width), generator=generator)
    prefixes[0, :2] = torch.tensor([3, -1])
    want = torch.zeros(batch, width, fanout)
    for b in range(batch):
        for w in range(width):
            state = states[b, 0 if is_shared else w].float()
            for code, slot in enumerate(slots[prefixes[b, w]].tolist()):
                if prefixes[b, w] >= 0:
                    want[b, w, code] = state @ rows[slot].float() if slot >= 0 else -torch.inf
    for form in (item_logits, item_logits_ref):
        tolerance = 1e-5 if dtype == torch.float32 else 0.1
        torch.testing.assert_close(
            form(states, rows, slots, prefixes), want, atol=tolerance, rtol=tolerance
        )
