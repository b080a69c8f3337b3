#!/usr/bin/env python3
"""Makes tests/golden/deepseek: a tiny random DeepSeekMoE model (model_type "deepseek") and the
outputs of the float64 reference below, in the layout of the other goldens.

    python3 tests/golden/make_deepseek.py tests/golden/deepseek     write the three files
    python3 tests/golden/make_deepseek.py --check                   compare the reference, see below

The model has the traits of DeepSeekMoE 16B: multi-head attention with RoPE over halves, softmax
scores and greedy top-k without normalisation, two fused shared experts, one dense layer first.
Only numpy is needed to write; --check wants torch as well (and transformers, for its third part).

How far the reference can be trusted, as --check prints it (largest absolute difference of logits,
which have a standard deviation of 2):
  1. RMSNorm, MLP, router, experts, residuals and head, run with latent attention on the golden of
     DeepSeek-V2-Lite that transformers made: 2.4e-05, and every routed expert and greedy
     token is equal.
  2. One attention block against torch: rotate_half written the usual way and
     scaled_dot_product_attention, float64: 6.3e-15.
  3. A model of the same shape with dense layers only against LlamaForCausalLM of transformers 5.23
     (the same architecture then) in float64, whose norms and RoPE stay in float32: 7.5e-06.
"""

import json
import os
import struct
import sys

import numpy as np

CONFIG = {
    "architectures": ["DeepseekForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 0,
    "dtype": "bfloat16",
    "eos_token_id": 1,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 128,
    "intermediate_size": 256,
    "max_position_embeddings": 2048,
    "model_type": "deepseek",
    "moe_intermediate_size": 32,
    "moe_layer_freq": 1,
    "n_routed_experts": 16,
    "n_shared_experts": 2,
    "norm_topk_prob": False,
    "num_attention_heads": 4,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "scoring_func": "softmax",
    "tie_word_embeddings": False,
    "vocab_size": 384,
}
PROMPT_LENGTH = 96
GREEDY_LENGTH = 32


# --- the safetensors format ---------------------------------------------------------------------

TYPES = {"F32": np.float32, "I32": np.int32, "BF16": np.uint16}


def to_bf16_bits(x):
    u = np.asarray(x, np.float32).view(np.uint32)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16_bits(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def load(path):
    with open(path, "rb") as f:
        data = f.read()
    (length,) = struct.unpack("<Q", data[:8])
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name == "__metadata__":
            continue
        begin, end = (8 + length + o for o in entry["data_offsets"])
        a = np.frombuffer(data[begin:end], TYPES[entry["dtype"]]).reshape(entry["shape"])
        tensors[name] = from_bf16_bits(a) if entry["dtype"] == "BF16" else a
    return tensors


def save(path, tensors, metadata=None):
    """tensors: name -> (dtype word, array)."""
    header, blobs, at = {}, [], 0
    if metadata:
        header["__metadata__"] = metadata
    for name, (dtype, array) in sorted(tensors.items()):
        blob = np.ascontiguousarray(array, TYPES[dtype]).tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape),
                        "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


# --- the model in float64 -----------------------------------------------------------------------


def rms_norm(x, w, eps):
    return w * x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)


def softmax(x):
    e = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return e / np.sum(e, axis=-1, keepdims=True)


def silu(x):
    return x / (1.0 + np.exp(-x))


def mlp(x, w, prefix):
    gate = x @ w[prefix + ".gate_proj.weight"].T
    up = x @ w[prefix + ".up_proj.weight"].T
    return (silu(gate) * up) @ w[prefix + ".down_proj.weight"].T


def rope_half(x, freq):
    """x [T, ..., d]: element i turns with element i + d/2."""
    half = x.shape[-1] // 2
    angle = np.arange(x.shape[0])[:, None] * freq
    angle = angle.reshape(x.shape[0], *[1] * (x.ndim - 2), half)
    a, b = x[..., :half], x[..., half:]
    c, s = np.cos(angle), np.sin(angle)
    return np.concatenate([a * c - b * s, a * s + b * c], axis=-1)


def attend(q, k, v, scale):
    """q, k [T, H, d], v [T, H, e] -> [T, H * e], causal."""
    t = q.shape[0]
    scores = np.einsum("thd,shd->hts", q, k) * scale
    scores = np.where(np.tril(np.ones((t, t), bool)), scores, -np.inf)
    return np.einsum("hts,she->the", softmax(scores), v).reshape(t, -1)


def mha(x, w, prefix, config):
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    d = config["hidden_size"] // heads
    freq = config["rope_theta"] ** (-2.0 * np.arange(d // 2) / d)
    project = lambda name, h: (x @ w[f"{prefix}.{name}.weight"].T).reshape(len(x), h, d)
    q = rope_half(project("q_proj", heads), freq)
    k = rope_half(project("k_proj", kv_heads), freq)
    v = project("v_proj", kv_heads)
    k, v = (np.repeat(a, heads // kv_heads, axis=1) for a in (k, v))
    return attend(q, k, v, d**-0.5) @ w[prefix + ".o_proj.weight"].T


def router(x, w, prefix, config):
    p = softmax(x @ w[prefix + ".gate.weight"].T)
    # Stable: between equal scores the lower index comes first.
    experts = np.argsort(-p, axis=-1, kind="stable")[:, : config["num_experts_per_tok"]]
    weights = np.take_along_axis(p, experts, axis=-1)
    if config["norm_topk_prob"]:
        weights = weights / (np.sum(weights, axis=-1, keepdims=True) + 1e-20)
    return experts, weights


def moe(x, w, prefix, config):
    experts, weights = router(x, w, prefix, config)
    y = mlp(x, w, prefix + ".shared_experts") if config["n_shared_experts"] else np.zeros_like(x)
    for e in range(config["n_routed_experts"]):
        rows, slots = np.nonzero(experts == e)
        if len(rows):
            y[rows] += weights[rows, slots, None] * mlp(x[rows], w, f"{prefix}.experts.{e}")
    return y, experts, weights


def forward(w, config, ids, attention=mha):
    """logits [T, V], hidden (list), routers {layer: (experts, weights)}."""
    eps = config["rms_norm_eps"]
    x = w["model.embed_tokens.weight"][ids]
    hidden, routers = [x], {}
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}."
        n = rms_norm(x, w[p + "input_layernorm.weight"], eps)
        x = x + attention(n, w, p + "self_attn", config)
        n = rms_norm(x, w[p + "post_attention_layernorm.weight"], eps)
        is_moe = config.get("n_routed_experts") and i >= config["first_k_dense_replace"]
        if is_moe:
            y, experts, weights = moe(n, w, p + "mlp", config)
            routers[i] = (experts, weights)
        else:
            y = mlp(n, w, p + "mlp")
        x = x + y
        hidden.append(x)
    hidden[-1] = rms_norm(x, w["model.norm.weight"], eps)
    return hidden[-1] @ w["lm_head.weight"].T, hidden, routers


def greedy(w, config, prompt, length, attention=mha):
    ids, margins = list(prompt), []
    for _ in range(length):
        last = forward(w, config, np.array(ids), attention)[0][-1]
        second, best = np.sort(last)[-2:]
        margins.append(best - second)
        ids.append(int(np.argmax(last)))
    return np.array(ids[len(prompt) :]), np.array(margins)


# --- making the golden --------------------------------------------------------------------------


def shapes(config):
    """name -> (shape, standard deviation, mean)."""
    d, v = config["hidden_size"], config["vocab_size"]
    out = {}

    def matrix(name, rows, cols, gain=1.4):
        out[name + ".weight"] = ((rows, cols), gain / np.sqrt(cols), 0.0)

    def norm(name):
        out[name + ".weight"] = ((d,), 0.1, 1.0)

    def feed_forward(prefix, width):
        matrix(prefix + ".gate_proj", width, d)
        matrix(prefix + ".up_proj", width, d)
        matrix(prefix + ".down_proj", d, width)

    out["model.embed_tokens.weight"] = ((v, d), 1.0, 0.0)
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}."
        norm(p + "input_layernorm")
        norm(p + "post_attention_layernorm")
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            matrix(f"{p}self_attn.{name}", d, d)
        if not config.get("n_routed_experts") or i < config["first_k_dense_replace"]:
            feed_forward(p + "mlp", config["intermediate_size"])
            continue
        width = config["moe_intermediate_size"]
        matrix(p + "mlp.gate", config["n_routed_experts"], d, gain=2.0)
        feed_forward(p + "mlp.shared_experts", config["n_shared_experts"] * width)
        for e in range(config["n_routed_experts"]):
            feed_forward(f"{p}mlp.experts.{e}", width)
    norm("model.norm")
    matrix("lm_head", v, d, gain=2.0)
    return out


def random_weights(config, seed):
    """Weights as stored: rounded to bf16, held as float64."""
    rng = np.random.default_rng(seed)
    make = lambda shape, std, mean: rng.normal(mean, std, shape).astype(np.float32)
    return {name: from_bf16_bits(to_bf16_bits(make(*spec))).astype(np.float64)
            for name, spec in shapes(config).items()}


def make(folder):
    w = random_weights(CONFIG, seed=38)  # no router choice or greedy token of this seed is a close call
    prompt = np.random.default_rng(7).integers(2, CONFIG["vocab_size"], PROMPT_LENGTH)
    prompt[0] = CONFIG["bos_token_id"]
    logits, hidden, routers = forward(w, CONFIG, prompt)
    ids, margins = greedy(w, CONFIG, prompt, GREEDY_LENGTH)
    golden = {"prompt_ids": ("I32", prompt), "logits": ("F32", logits),
              "greedy_ids": ("I32", ids), "greedy_margin": ("F32", margins)}
    for i, h in enumerate(hidden):
        golden[f"hidden.{i}"] = ("F32", h)
    for i, (experts, weights) in routers.items():
        golden[f"router.{i}.experts"] = ("I32", experts)
        golden[f"router.{i}.weights"] = ("F32", weights)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(CONFIG, f, indent=1, sort_keys=True)
        f.write("\n")
    save(os.path.join(folder, "model.safetensors"),
         {name: ("BF16", to_bf16_bits(a)) for name, a in w.items()}, {"format": "pt"})
    save(os.path.join(folder, "golden.safetensors"), golden)
    print(f"logits std {logits.std():.3f}, smallest greedy margin {margins.min():.4f}, "
          f"smallest router gap {min_router_gap(w, hidden, routers):.2e}")


def min_router_gap(w, hidden, routers):
    """The least distance between the last chosen weight and the first that is not: below 1e-5 a
    float32 implementation could choose otherwise."""
    gap = np.inf
    for i in routers:
        p = f"model.layers.{i}."
        x = hidden[i] + mha(rms_norm(hidden[i], w[p + "input_layernorm.weight"], 1e-6), w,
                            p + "self_attn", CONFIG)
        n = rms_norm(x, w[p + "post_attention_layernorm.weight"], 1e-6)
        scores = -np.sort(-softmax(n @ w[p + "mlp.gate.weight"].T), axis=-1)
        k = CONFIG["num_experts_per_tok"]
        gap = min(gap, np.min(scores[:, k - 1] - scores[:, k]))
    return gap


# --- comparing the reference --------------------------------------------------------------------


def yarn_frequencies(config, d):
    y, theta = config["rope_scaling"], config["rope_theta"]
    length = y["original_max_position_embeddings"]
    dim = lambda r: d * np.log(length / (r * 2 * np.pi)) / (2 * np.log(theta))
    lo, hi = max(np.floor(dim(y["beta_fast"])), 0), min(np.ceil(dim(y["beta_slow"])), d - 1)
    ramp = np.clip((np.arange(d // 2) - lo) / ((hi - lo) or 0.001), 0, 1)
    f = theta ** (-2.0 * np.arange(d // 2) / d)
    return f / y["factor"] * ramp + f * (1 - ramp)


def mla(x, w, prefix, config):
    """Latent attention without a low-rank query, as DeepSeek-V2-Lite has it."""
    heads, t = config["num_attention_heads"], len(x)
    dn, dr, dv = (config[k] for k in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
    rank, yarn = config["kv_lora_rank"], config["rope_scaling"]
    freq = yarn_frequencies(config, dr)
    # Stored in interleaved pairs: (2i, 2i+1) becomes (i, i + d/2).
    halves = lambda a: np.concatenate([a[..., 0::2], a[..., 1::2]], axis=-1)
    q = (x @ w[prefix + ".q_proj.weight"].T).reshape(t, heads, dn + dr)
    z = x @ w[prefix + ".kv_a_proj_with_mqa.weight"].T
    c = rms_norm(z[:, :rank], w[prefix + ".kv_a_layernorm.weight"], config["rms_norm_eps"])
    kv = (c @ w[prefix + ".kv_b_proj.weight"].T).reshape(t, heads, dn + dv)
    k_rope = np.repeat(rope_half(halves(z[:, None, rank:]), freq), heads, axis=1)
    q = np.concatenate([q[..., :dn], rope_half(halves(q[..., dn:]), freq)], axis=-1)
    k = np.concatenate([kv[..., :dn], k_rope], axis=-1)
    m = 0.1 * yarn["mscale_all_dim"] * np.log(yarn["factor"]) + 1
    scale = (dn + dr) ** -0.5 * m * m
    return attend(q, k, kv[..., dn:], scale) @ w[prefix + ".o_proj.weight"].T


def check_v2_lite():
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "v2-lite")
    with open(os.path.join(folder, "config.json")) as f:
        config = json.load(f)
    w = {k: a.astype(np.float64) for k, a in load(f"{folder}/model.safetensors").items()}
    g = load(f"{folder}/golden.safetensors")
    logits, _, routers = forward(w, config, g["prompt_ids"], mla)
    for i, (experts, weights) in routers.items():
        theirs, order = np.sort(g[f"router.{i}.experts"], -1), np.argsort(experts, -1)
        assert np.array_equal(np.take_along_axis(experts, order, -1), theirs), f"router {i}"
    ids, _ = greedy(w, config, g["prompt_ids"], GREEDY_LENGTH, mla)
    assert np.array_equal(ids, g["greedy_ids"]), "greedy ids"
    print(f"1. v2-lite golden: {np.max(np.abs(logits - g['logits'])):.1e}")


def check_attention():
    import torch

    w = random_weights(CONFIG, seed=3)
    x = np.random.default_rng(5).normal(size=(64, CONFIG["hidden_size"]))
    p, heads = "model.layers.0.self_attn", CONFIG["num_attention_heads"]
    weight = lambda name: torch.from_numpy(w[f"{p}.{name}.weight"])
    project = lambda name: (torch.from_numpy(x) @ weight(name).T).view(64, heads, -1).transpose(0, 1)
    q, k, v = project("q_proj"), project("k_proj"), project("v_proj")
    d = q.shape[-1]
    inv = 1.0 / CONFIG["rope_theta"] ** (torch.arange(0, d, 2, dtype=torch.float64) / d)
    angle = torch.outer(torch.arange(64, dtype=torch.float64), inv)
    angle = torch.cat([angle, angle], dim=-1)
    rotate_half = lambda a: torch.cat([-a[..., d // 2 :], a[..., : d // 2]], dim=-1)
    turn = lambda a: a * angle.cos() + rotate_half(a) * angle.sin()
    o = torch.nn.functional.scaled_dot_product_attention(turn(q), turn(k), v, is_causal=True)
    theirs = (o.transpose(0, 1).reshape(64, -1) @ weight("o_proj").T).numpy()
    print(f"2. attention, torch: {np.max(np.abs(mha(x, w, p, CONFIG) - theirs)):.1e}")


def check_llama():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = dict(CONFIG, n_routed_experts=0)
    w = random_weights(config, seed=4)
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "vocab_size", "rms_norm_eps", "max_position_embeddings",
            "rope_theta")
    llama = LlamaForCausalLM(LlamaConfig(**{k: config[k] for k in keys})).double().eval()
    llama.load_state_dict({k: torch.from_numpy(a) for k, a in w.items()}, strict=True)
    ids = np.random.default_rng(6).integers(0, config["vocab_size"], 64)
    with torch.no_grad():
        theirs = llama(torch.from_numpy(ids)[None]).logits[0].numpy()
    ours = forward(w, config, ids)[0]
    print(f"3. dense layers, transformers' Llama: {np.max(np.abs(ours - theirs)):.1e}")


def main():
    if sys.argv[1:] == ["--check"]:
        check_v2_lite()
        check_attention()
        try:
            check_llama()
        except ImportError as error:
            print(f"3. skipped: {error}")
    elif len(sys.argv) == 2:
        make(sys.argv[1])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
