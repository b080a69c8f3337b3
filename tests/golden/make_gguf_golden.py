#!/usr/bin/env python3
"""Makes tests/golden/tiny.gguf with the PyPI package gguf, as a file of another writer.

    python3 tests/golden/make_gguf_golden.py

Made with gguf 0.19.0 and numpy. A deepseek2 model of one dense and one MoE layer with random weights
from a fixed seed, its matrices in Q8_0; metadata of every kind that the format has. Also prints the
sums of some tensors, dequantised by the package, which tests/model/gguf_golden_test.cpp expects.
"""

import pathlib

import gguf
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
D, V, H, R, NOPE, ROPE, VDIM, FF, F, E = 64, 96, 2, 32, 32, 16, 32, 96, 32, 4

rng = np.random.default_rng(7)
writer = gguf.GGUFWriter(HERE / "tiny.gguf", "deepseek2")
writer.add_name("Tiny")
writer.add_block_count(2)
writer.add_context_length(512)
writer.add_embedding_length(D)
writer.add_feed_forward_length(FF)
writer.add_leading_dense_block_count(1)
writer.add_vocab_size(V)
writer.add_head_count(H)
writer.add_head_count_kv(1)
writer.add_layer_norm_rms_eps(1e-6)
writer.add_kv_lora_rank(R)
writer.add_key_length(R + ROPE)
writer.add_value_length(R)
writer.add_key_length_mla(NOPE + ROPE)
writer.add_value_length_mla(VDIM)
writer.add_rope_dimension_count(ROPE)
writer.add_rope_freq_base(10000.0)
writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
writer.add_rope_scaling_factor(40.0)
writer.add_rope_scaling_orig_ctx_len(64)
writer.add_rope_scaling_yarn_log_mul(0.1 * 0.707)
writer.add_expert_count(E)
writer.add_expert_used_count(2)
writer.add_expert_shared_count(1)
writer.add_expert_feed_forward_length(F)
writer.add_expert_weights_scale(1.0)
writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SOFTMAX)
for kind, value in (("uint8", 200), ("int8", -3), ("uint16", 60000), ("int16", -300),
                    ("uint64", 1 << 40), ("int64", -(1 << 40)), ("float64", 0.1)):
    getattr(writer, f"add_{kind}")(f"test.{kind}", value)
writer.add_array("test.strings", ["one", "", "drei"])
writer.add_array("test.floats", [0.5, -2.0])


def put(name, *shape, plain=False):
    data = rng.standard_normal(shape).astype(np.float32) * np.float32(0.1)
    if plain or shape[-1] % 32 != 0:
        writer.add_tensor(name, data)
        print(f'{{"{name}", {float(data.astype(np.float64).sum()):.17g}}},')
        return
    blocks = gguf.quantize(data, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor(name, blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    back = gguf.dequantize(blocks, gguf.GGMLQuantizationType.Q8_0)
    print(f'{{"{name}", {float(back.astype(np.float64).sum()):.17g}}},')


put("token_embd.weight", V, D)
for i in range(2):
    blk = f"blk.{i}."
    put(blk + "attn_norm.weight", D, plain=True)
    put(blk + "attn_q.weight", H * (NOPE + ROPE), D)
    put(blk + "attn_kv_a_mqa.weight", R + ROPE, D)
    put(blk + "attn_kv_a_norm.weight", R, plain=True)
    put(blk + "attn_k_b.weight", H, R, NOPE)
    put(blk + "attn_v_b.weight", H, VDIM, R)
    put(blk + "attn_output.weight", D, H * VDIM)
    put(blk + "ffn_norm.weight", D, plain=True)
    if i == 0:
        for part, rows, cols in (("gate", FF, D), ("up", FF, D), ("down", D, FF)):
            put(f"{blk}ffn_{part}.weight", rows, cols)
        continue
    put(blk + "ffn_gate_inp.weight", E, D, plain=True)
    for part, rows, cols in (("gate", F, D), ("up", F, D), ("down", D, F)):
        put(f"{blk}ffn_{part}_exps.weight", E, rows, cols)
        put(f"{blk}ffn_{part}_shexp.weight", rows, cols)
put("output_norm.weight", D, plain=True)
put("output.weight", V, D)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
