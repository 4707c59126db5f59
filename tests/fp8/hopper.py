"""Compile every Triton kernel for Hopper, as it would be launched there, on a machine without a GPU.

A program, because Triton decides once a process whether kernels are compiled or interpreted: it prints one line of JSON
a kernel. Launches are caught before they need a driver, and compiled for compute capability 9.0 down to machine code,
by the assembler that Triton carries.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

from clearseek.fp8.backends.triton import products, quantise, swiglu, weight_gradient
from clearseek.fp8.backends.triton.loading import Launch
from clearseek.fp8.formats import E4M3

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
TYPES = {torch.bfloat16: "bf16", torch.float32: "fp32", torch.int32: "i32", E4M3: "fp8e4nv"}
DIVISIBLE = [["tt.divisibility", 16]]


def compile_instead(self: Any, *args: Any, grid: Any, warmup: bool, **named: Any) -> None:
    """In place of launching: compile with the specialisation that the launch would have had."""
    options = {key: named.pop(key) for key in ("num_warps", "num_stages", "maxnreg") if key in named}
    bound = dict(zip(self.arg_names, args, strict=False)) | named
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes = {}
    for index, parameter in enumerate(self.params):
        name, value = parameter.name, bound[parameter.name]
        if parameter.is_constexpr or (isinstance(value, int) and value == 1):
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, TensorDescriptor):
            signature[name] = f"tensordesc<{TYPES[value.base.dtype]}{list(value.block_shape)}>"
        elif isinstance(value, torch.Tensor):
            signature[name] = "*" + TYPES[value.dtype]
            attributes[(index,)] = DIVISIBLE
        else:
            signature[name] = "i32"
            attributes |= {(index,): DIVISIBLE} if value % 16 == 0 else {}
    source = ASTSource(self, signature, constants, attributes)
    kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    print(json.dumps({"kernel": self.fn.__name__, "options": options, **constants, **measures(kernel)}, default=str))


def measures(kernel: Any) -> dict[str, Any]:
    """What the machine code takes and does."""
    file = Path("kernel.cubin")
    file.write_bytes(kernel.asm["cubin"])
    usage = subprocess.run([TOOLS / "cuobjdump", "--dump-resource-usage", file], capture_output=True, text=True)
    code = subprocess.run([TOOLS / "nvdisasm", "-c", file], capture_output=True, text=True).stdout
    registers, stack = (int(re.search(rf"{what}:(\d+)", usage.stdout)[1]) for what in ("REG", "STACK"))  # type: ignore[index]
    ptx = kernel.asm["ptx"]
    return {
        "registers": registers,
        "stack": stack,
        "shared": kernel.metadata.shared,
        "tensor_cores": code.count("QGMMA"),
        "copies": code.count("UTMALDG"),
        "atomics": len(re.findall(r"\b(?:atom|red)\.", ptx)),
        "casts": sorted(set(re.findall(r"cvt\.[\w.]*(?:e4m3|e5m2)x2\.f32", ptx))),
        "divisions": sorted(set(re.findall(r"div\.\w+\.f32", ptx))),
    }


def launch_everything() -> None:
    x = torch.zeros(512, 512, dtype=torch.bfloat16)
    weight = torch.ones(512, 1, dtype=torch.bfloat16)
    ends_E = torch.tensor([256, 512], dtype=torch.int32)
    for power_of_two in (True, False):  # multiplying by an inverse, or dividing
        tiles = quantise.tiles(x, power_of_two)
        columns = quantise.tiles_and_columns(x, power_of_two)[1]
    quantise.columns(x, False)
    quantise.retile(tiles, True)
    quantise.decode(tiles)
    blocks = quantise.blocks(x.float().view(2, 256, 512), True)
    kept, _ = swiglu.swiglu(x, weight, True)
    swiglu.swiglu_backward(x[:, :256].contiguous(), kept, weight, False)
    for launch in (Launch(2, 8, 4, True), Launch(1, 8, 4, True), Launch(1, 8, 4, False)):
        products.grouped_scaled_mm(tiles, blocks.forward, ends_E, launch)
        products.scaled_mm(tiles, quantise.blocks(x, True).forward, launch)
        weight_gradient.grouped_weight_gradient(columns, columns, ends_E, launch)


if __name__ == "__main__":
    JITFunction.run = compile_instead  # type: ignore[method-assign]
    launch_everything()
