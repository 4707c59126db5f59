"""PEFT's side of `lora_speed.py`, run by a Python that has PEFT and nothing of ClearSeek's: ``peer_peft.py FOLDER``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from turns import Turns

TURNS = Turns()  # before the libraries can print

import peft  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

FOLDER = Path(sys.argv[1])
SETTINGS: dict[str, Any] = json.loads((FOLDER / "settings.json").read_text())


def opened() -> Any:
    """The exported model with the exported adapters."""
    base = transformers.AutoModelForCausalLM.from_pretrained(FOLDER / "export", dtype=torch.float32)
    return peft.PeftModel.from_pretrained(base, FOLDER / "adapter", is_trainable=True)


def tokens_of(number: int) -> torch.Tensor:
    """The batch of a step, as in `lora_speed.py`."""
    draw = torch.Generator().manual_seed(number)
    shape = SETTINGS["batch"], SETTINGS["length"] + 1
    return torch.randint(20, SETTINGS["model"]["vocab_size"], shape, generator=draw)


def main() -> None:
    model, written = opened().train(), opened().eval()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    settings = SETTINGS["optimizer"]
    optimizer = torch.optim.AdamW(
        trained, settings["learning_rate"], settings["betas"], settings["eps"], settings["weight_decay"], fused=True
    )
    done = 0
    TURNS.hello(peft=peft.__version__, transformers=transformers.__version__, torch=torch.__version__,
                threads=torch.get_num_threads(), trained=sum(each.numel() for each in trained))  # fmt: skip
    while (request := TURNS.wait()) is not None:
        used = written if request["what"] == "decode" else model
        if "attention" in request:
            used.get_base_model().set_attn_implementation(request["attention"])
            used.get_base_model().set_experts_implementation(request["experts"])
        if request["what"] == "decode":
            prompt = tokens_of(0)[:1, : SETTINGS["prompt"]]
            TURNS.restart()
            with torch.no_grad():
                found = used.generate(
                    input_ids=prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
                    max_new_tokens=SETTINGS["new"], eos_token_id=None, pad_token_id=0,
                )  # fmt: skip
            new = found[0, SETTINGS["prompt"] :].tolist()
            TURNS.done(tokens=len(new), written=new)
            continue
        tokens = tokens_of(done)
        TURNS.restart()
        loss = model(input_ids=tokens[:, :-1], labels=tokens[:, :-1], shift_labels=tokens[:, 1:].contiguous()).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, settings["grad_clip"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        TURNS.done(steps=1, loss=loss.item())
        done += 1


if __name__ == "__main__":
    main()
