"""GGUF: a model as the one file that llama.cpp reads.

The file holds dimensions, tokenizer, chat template and tensors under llama.cpp's names. Its architecture ``deepseek2``
runs attention *absorbed* (DeepSeek-V2 report, section 2.1.2), so `kv_b_proj` is stored as two tensors a head: the key
part transposed, which takes queries into the latents' space, and the value part. The experts of a layer are one tensor
of three dimensions for each projection; router, balance bias and norms are always F32. The multi-token-prediction layer
is the block after the last one, under ``blk.L.nextn``, with which llama.cpp drafts (``draft-mtp``).

Bytes and quantisation are the `gguf` package's. Tensors are converted in pieces while they are written.

Shapes: H heads, N channels without position, V value channels, R latent rank, E experts, I width.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from torch import Tensor

from clearseek.chat.render import template
from clearseek.config import ModelConfig, RopeScaling
from clearseek.data.tokenizer import SPLIT_PATTERNS, Tokenizer
from clearseek.errors import UserError
from clearseek.files import atomic_file
from clearseek.hub.portability import check_portability
from clearseek.hub.tokenizer_files import special_ids
from clearseek.hub.write import check_names
from clearseek.tensors import TensorSpec, memory_tensors

try:
    import gguf
except ImportError:
    raise UserError("GGUF needs the library gguf: pip install 'clearseek[gguf]'") from None

from gguf import GGMLQuantizationType as Type
from gguf import LlamaFileType, TokenType

Dtype = Literal["f32", "bf16", "f16", "q8_0", "q4_0"]
DTYPES: dict[str, tuple[Type, LlamaFileType]] = {
    "f32": (Type.F32, LlamaFileType.ALL_F32),
    "bf16": (Type.BF16, LlamaFileType.MOSTLY_BF16),
    "f16": (Type.F16, LlamaFileType.MOSTLY_F16),
    "q8_0": (Type.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (Type.Q4_0, LlamaFileType.MOSTLY_Q4_0),
}
"""Types of matrices by their names on the command line, and what the file says of itself."""
PIECE = 1 << 24
"""Elements that are converted at once: 64 MiB in F32."""
_LARGEST = {Type.F16: 65504.0, Type.Q8_0: 127 * 65504.0, Type.Q4_0: 8 * 65504.0}
"""Largest magnitude that a type holds; a block's scale is F16."""
_NEXTN = {
    "eh_proj.weight": gguf.MODEL_TENSOR.NEXTN_EH_PROJ,
    "enorm.weight": gguf.MODEL_TENSOR.NEXTN_ENORM,
    "hnorm.weight": gguf.MODEL_TENSOR.NEXTN_HNORM,
    "shared_head.norm.weight": gguf.MODEL_TENSOR.NEXTN_SHARED_HEAD_NORM,
}
"""Tensors that only the multi-token-prediction layer has; the package's table of names lacks them for this model."""


@dataclass(frozen=True)
class Part:
    """A tensor of the file: all of a tensor in memory, or a part of one."""

    name: str
    """llama.cpp's name."""
    source: str
    """Name of the tensor in memory."""
    source_shape: tuple[int, ...]
    """Shape of the tensor in memory."""
    take: Callable[[Tensor], Tensor]
    """Part of the tensor in memory, as a view."""
    shape: tuple[int, ...]
    type: Type
    """Stored type."""

    @property
    def bytes(self) -> int:
        """Size in the file."""
        block, size = gguf.GGML_QUANT_SIZES[self.type]
        return math.prod(self.shape) // block * size


def export_gguf(
    state: Mapping[str, Tensor], config: ModelConfig, tokenizer: Tokenizer, out: str | Path, dtype: Dtype = "bf16"
) -> list[str]:
    """Write a GGUF file that llama.cpp loads, whole or not at all.

    Args:
        state: The model under the names of :func:`~clearseek.tensors.memory_tensors`, on any device and of any floating
            type. It may load lazily: a tensor is read once or, where it is split, once for each of two parts.
        config: The dimensions of `state`.
        tokenizer: The tokenizer that the model was trained with.
        out: The file to write, which must not exist.
        dtype: Type of matrices. Rows that do not fill blocks of 32 are F16 in a Q8_0 or Q4_0 file, as llama.cpp's own
            converter has them.

    Returns:
        Names of the tensors that are F16 for that reason.

    Raises:
        UserError: `out` exists, llama.cpp would not load these dimensions or compute something else, the tokenizer
            splits text in another way than llama.cpp would, tensors are missing, unknown or misshapen, a number is not
            finite or too large for the type, or the disk is full.
    """
    out = Path(out)
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype!r}: a GGUF file is written as {', '.join(DTYPES)}")
    if out.exists():
        kind = "is a folder: name a file in it" if out.is_dir() else "already exists: remove it or choose another name"
        raise UserError(f"{out}: {kind}")
    if errors := [each.message for each in check_portability(config) if (each.severity, each.tool) == _REFUSED]:
        raise UserError(f"llama.cpp would not run this model as it is: it {'; it '.join(errors)}")
    check_names("the model", set(state), {spec.name for spec in memory_tensors(config)})
    parts = list(file_parts(config, DTYPES[dtype][0]))
    with atomic_file(out, sum(part.bytes for part in parts)) as file:
        writer = gguf.GGUFWriter(file.name, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.DEEPSEEK2])
        writer.add_type(gguf.GGUFType.MODEL)
        writer.add_name(out.stem)
        writer.add_file_type(DTYPES[dtype][1])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        _add_dimensions(writer, config)
        _add_tokenizer(writer, tokenizer, config.vocab_size)
        for part in parts:
            raw = np.dtype(np.float32)  # any but uint8, which would mean a shape in bytes
            writer.add_tensor_info(part.name, part.shape, raw, part.bytes, part.type)
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for part in parts:
                writer.write_tensor_data(_Pieces(part, state))  # type: ignore[arg-type]
        finally:
            writer.close()
    return [part.name for part in parts if part.type == Type.F16 != DTYPES[dtype][0]]


_REFUSED = ("error", "llama.cpp")


def file_parts(config: ModelConfig, dtype: Type) -> Iterator[Part]:
    """Yield the tensors of a file whose matrices are of type `dtype`, in model order."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.DEEPSEEK2, config.num_hidden_layers + 1)
    for spec in memory_tensors(config):
        whole = torch.empty(spec.shape, device="meta")
        for hugging_face, take in _split(spec, config):
            last = hugging_face.removeprefix(f"model.layers.{spec.layer}.")
            if last in _NEXTN:
                name = f"{gguf.TENSOR_NAMES[_NEXTN[last]].format(bid=spec.layer)}.weight"
            else:
                key = hugging_face.replace("correction_bias", "correction.bias")
                key = key if key.endswith((".weight", ".bias")) else f"{key}.weight"
                name = names.get_name(key, (".weight", ".bias")) or ""
            assert name, hugging_face
            shape = tuple(take(whole).shape)
            yield Part(name, spec.name, spec.shape, take, shape, _type(spec, shape, dtype))


def _split(spec: TensorSpec, config: ModelConfig) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    """Yield names, in Hugging Face's manner, and parts of a tensor in memory."""
    heads, nope, width = config.num_attention_heads, config.qk_nope_head_dim, config.moe_intermediate_size
    if spec.name.endswith(".kv_b_proj.weight"):  # [H (N + V), R]

        def per_head(weight: Tensor) -> Tensor:
            return weight.reshape(heads, -1, config.kv_lora_rank)

        yield spec.name.replace("kv_b", "k_b"), lambda x: per_head(x)[:, :nope].transpose(1, 2)  # [H, R, N]
        yield spec.name.replace("kv_b", "v_b"), lambda x: per_head(x)[:, nope:]  # [H, V, R]
    elif spec.name.endswith(".gate_up_proj"):  # [E, 2I, hidden]
        yield spec.name.replace("gate_up_proj", "gate_proj"), lambda x: x[:, :width]
        yield spec.name.replace("gate_up_proj", "up_proj"), lambda x: x[:, width:]
    else:
        yield spec.name, lambda x: x


def _type(spec: TensorSpec, shape: tuple[int, ...], dtype: Type) -> Type:
    """Stored type: F32 for vectors and routers, F16 for rows that do not fill the blocks of `dtype`."""
    if len(shape) == 1 or spec.kind == "router":
        return Type.F32
    return dtype if shape[-1] % gguf.GGML_QUANT_SIZES[dtype][0] == 0 else Type.F16


@dataclass(frozen=True)
class _Pieces:
    """What the writer sees of a tensor: an array's size and its way into a file, in pieces that are made one by one."""

    part: Part
    state: Mapping[str, Tensor]

    @property
    def nbytes(self) -> int:
        return self.part.bytes

    def tofile(self, file: BinaryIO) -> None:
        part, source = self.part, self.state[self.part.source].detach()
        if tuple(source.shape) != part.source_shape:
            raise UserError(
                f"{part.source} has shape {[*source.shape]}, but its configuration says {[*part.source_shape]}"
            )
        for piece in part.take(source).split(max(1, PIECE // math.prod(part.shape[1:]))):
            whole = piece.to("cpu", torch.float32).contiguous().numpy()
            largest = float(np.abs(whole).max())
            if not math.isfinite(largest):
                raise UserError(f"{part.source} holds NaN or infinity: export an earlier checkpoint")
            if largest > _LARGEST.get(part.type, math.inf):
                raise UserError(f"{part.source} holds {largest:g}, too large for {part.type.name}: use bf16 or f32")
            file.write(gguf.quantize(whole, part.type).data.cast("B"))


def _add_dimensions(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    """Add what llama.cpp needs to know of the architecture."""
    rank, rope = config.kv_lora_rank, config.qk_rope_head_dim
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers + config.num_nextn_predict_layers)
    writer.add_leading_dense_block_count(config.first_k_dense_replace)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if config.num_nextn_predict_layers:
        writer.add_nextn_predict_layers(config.num_nextn_predict_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(1)  # absorbed, all heads share one key and value: the latent
    if config.q_lora_rank is not None:
        writer.add_q_lora_rank(config.q_lora_rank)
    writer.add_kv_lora_rank(rank)
    writer.add_key_length(rank + rope)
    writer.add_value_length(rank)
    writer.add_key_length_mla(config.qk_head_dim)
    writer.add_value_length_mla(config.v_head_dim)
    writer.add_expert_count(config.n_routed_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_expert_shared_count(config.n_shared_experts)
    writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    writer.add_expert_group_count(config.n_group)
    writer.add_expert_group_used_count(config.topk_group)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType[config.scoring_func.upper()])
    writer.add_expert_weights_norm(config.norm_topk_prob)
    scaled = config.model_type == "deepseek_v3" or not config.norm_topk_prob  # V2 normalises or scales, never both
    writer.add_expert_weights_scale(config.routed_scaling_factor if scaled else 1.0)
    writer.add_rope_dimension_count(rope)
    writer.add_rope_freq_base(config.rope_theta)
    if config.rope_scaling is not None:
        _add_yarn(writer, config.rope_scaling)


def _add_yarn(writer: gguf.GGUFWriter, yarn: RopeScaling) -> None:
    """Add YaRN's settings so that llama.cpp's two factors come out as this model's.

    llama.cpp multiplies cosines and sines by `attn_factor` a, and the softmax by (a g)^2, where
    g = 1 + 10 log_multiplier * 0.1 ln(factor). The model's factors are `magnitude` and `growth(mscale_all_dim)` ^ 2. A
    log_multiplier of 0 makes llama.cpp multiply a by ``growth(1)``.
    """
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(yarn.factor)
    writer.add_rope_scaling_orig_ctx_len(yarn.original_max_position_embeddings)
    writer.add_rope_scaling_yarn_beta_fast(yarn.beta_fast)
    writer.add_rope_scaling_yarn_beta_slow(yarn.beta_slow)
    attention, all_dim = yarn.magnitude, yarn.mscale_all_dim
    if attention != 1.0:
        all_dim = (yarn.growth(yarn.mscale_all_dim) / attention - 1.0) / (0.1 * math.log(yarn.factor))
    if all_dim == 0.0:
        attention /= yarn.growth(1.0)
    writer.add_rope_scaling_yarn_log_mul(0.1 * all_dim)
    if attention != 1.0:
        writer.add_rope_scaling_attn_factors(attention)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer, size: int) -> None:
    """Add vocabulary, merges and chat template. Raises UserError for a tokenizer that llama.cpp would read as another.

    Text of a CONTROL token stays text in llama.cpp unless it is told to parse special tokens; USER_DEFINED ones, such
    as ``<think>``, are always found in text, and are shown in answers.
    """
    spec = json.loads(tokenizer.content)
    if _patterns(spec.get("pre_tokenizer")) != list(SPLIT_PATTERNS) or spec["model"].get("type") != "BPE":
        raise UserError(
            "the tokenizer splits text by other patterns than DeepSeek-V3's, which are the ones that llama.cpp would "
            "use: export a model with DeepSeek-V3's tokenizer or one trained here"
        )
    if not spec["model"]["merges"]:
        raise UserError(
            "the tokenizer has no merges, and llama.cpp does not load such a one: train a larger vocabulary"
        )
    ids = special_ids(tokenizer, size)
    tokens, types = [], []
    for identity in range(size):
        token = tokenizer.token_of(identity)
        if token is None:
            token, kind = f"[PAD{identity}]", TokenType.UNUSED
        elif identity not in tokenizer.added:
            kind = TokenType.NORMAL
        else:
            control = token.startswith("<｜") and token.endswith("｜>")  # noqa: RUF001
            kind = TokenType.CONTROL if control else TokenType.USER_DEFINED
        tokens.append(token)
        types.append(kind)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("deepseek-v3")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in spec["model"]["merges"]])
    writer.add_bos_token_id(ids.bos)
    writer.add_eos_token_id(ids.eos)
    writer.add_pad_token_id(ids.pad)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_chat_template(template())


def _patterns(pre_tokenizer: Any) -> list[str]:
    """Regular expressions that a tokenizer.json splits text by."""
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer]) if isinstance(pre_tokenizer, dict) else []
    return [step["pattern"].get("Regex", "") for step in steps if step.get("type") == "Split"]


def places(names: list[str]) -> str:
    """Summary of tensors by their place in a block: ``attn_k_b (12 tensors), ...``."""
    count: dict[str, int] = defaultdict(int)
    for name in names:
        count[name.split(".")[-2]] += 1
    return ", ".join(f"{place} ({number} tensor{'s' if number > 1 else ''})" for place, number in count.items())
