from __future__ import annotations

import torch

from clearseek.train.task import Batch


def test_micro_batches_are_the_batch_in_order() -> None:
    """Everything that belongs to a token goes with it."""
    tokens = torch.arange(4 * 6).view(4, 6)
    batch = Batch(3, tokens, tokens.float(), 20, tokens + 1, tokens % 3 > 0, tokens[None, :, :4, None])
    micros = [micro.to(torch.device("cpu")) for micro in batch.split(2)]
    assert [micro.step for micro in micros] == [3, 3]
    for name in ("tokens_BX", "weight_BX", "start_BX", "valid_BX"):
        assert torch.equal(torch.cat([getattr(micro, name) for micro in micros]), getattr(batch, name)), name
    routings = [micro.routing_LBSK for micro in micros if micro.routing_LBSK is not None]
    assert batch.routing_LBSK is not None and torch.equal(torch.cat(routings, 1), batch.routing_LBSK)
    plain = next(iter(Batch(1, tokens, tokens.float(), 20).split(4)))
    assert plain.start_BX is None and plain.valid_BX is None and plain.routing_LBSK is None
