"""ferry-tiny-v3's configuration and model, in PyTorch.

The architecture is DeepSeek-V3's, small: multi-head latent attention with decoupled, interleaved RoPE under YaRN;
one dense layer, then mixture-of-experts layers with a shared expert, sigmoid scores, group-limited top-k and a
selection bias that balances load without an auxiliary loss; one multi-token-prediction (MTP) module.
"""
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

CONFIG = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "ep_size": 1,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 256,
    "initializer_range": 0.02,
    "intermediate_size": 512,
    "kv_lora_rank": 128,
    "max_position_embeddings": 4096,
    "model_type": "deepseek_v3",
    "moe_intermediate_size": 128,
    "moe_layer_freq": 1,
    "n_group": 4,
    "n_routed_experts": 32,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 5,
    "num_key_value_heads": 4,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 128,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "quantization_config": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
    },
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 4,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 1024,
        "type": "yarn",
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "tie_word_embeddings": False,
    "topk_group": 2,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "v_head_dim": 64,
    "vocab_size": 2304,
}


class Cfg:
    def __init__(self, d):
        self.__dict__.update(d)


C = Cfg(CONFIG)
torch._dynamo.config.recompile_limit = 32
QAT = False                # weights go through FP8 blocks
DTYPE = torch.bfloat16     # of the matrix products


@torch.compile(dynamic=False)
def rms(x, w, eps):
    x = x.float()
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * w


@torch.compile(dynamic=False)
def swiglu(g, u):
    return F.silu(g) * u


@torch.compile(dynamic=False)
def causal_softmax(s, scale):
    i = torch.arange(s.shape[-1])
    return (s.float() * scale).masked_fill(i[None, :] > i[:, None], -math.inf).softmax(-1).to(s.dtype)


@torch.compile(dynamic=False)
def rope(x, cos, sin):
    """Interleaved pairs (x0,x1),(x2,x3)...; x [..., S, d]."""
    a, b = x[..., 0::2].float(), x[..., 1::2].float()
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2).to(x.dtype)


@torch.compile(dynamic=False)
def nll(logits, target):
    return F.cross_entropy(logits.float().flatten(0, 1), target.flatten())


def fp8_blocks(w):
    """[..., r, c] float32 -> (E4M3 values, float32 scales per 128x128 block, the weights they stand for)."""
    r, c = w.shape[-2:]
    br, bc = -(-r // 128), -(-c // 128)
    p = F.pad(w, (0, bc * 128 - c, 0, br * 128 - r)).unflatten(-1, (bc, 128)).unflatten(-3, (br, 128))
    scale = p.abs().amax((-3, -1), keepdim=True).clamp_min(1e-12) / 448.0
    q = (p / scale).to(torch.float8_e4m3fn)
    deq = (q.float() * scale).flatten(-4, -3).flatten(-2)[..., :r, :c]
    return q.flatten(-4, -3).flatten(-2)[..., :r, :c], scale.squeeze(-1).squeeze(-2), deq


def cast(w):
    if QAT:
        w = w + (fp8_blocks(w.detach())[2] - w.detach())     # straight-through
    return w.to(DTYPE)


class Linear(nn.Module):
    """x W^T; `quant` weights ship in FP8."""
    def __init__(self, i, o, std=None, quant=True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(o, i) * (std if std is not None else 0.5 / math.sqrt(i)))
        self.quant = quant

    def forward(self, x):
        return F.linear(x.to(DTYPE), cast(self.weight) if self.quant else self.weight.to(DTYPE))


class RMSNorm(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))

    def forward(self, x):
        return rms(x, self.weight, C.rms_norm_eps)


def yarn_mscale(factor, m):
    return 1.0 if factor <= 1 else 0.1 * m * math.log(factor) + 1.0


def rope_table(n):
    """cos, sin [n, rope/2] under YaRN, as DeepSeek-V3 has it."""
    d, base, rs = C.qk_rope_head_dim, C.rope_theta, C.rope_scaling
    extra = 1.0 / base ** (torch.arange(0, d, 2, dtype=torch.float32) / d)
    inter = extra / rs["factor"]
    dim_of = lambda rot: d * math.log(rs["original_max_position_embeddings"] / (rot * 2 * math.pi)) / (2 * math.log(base))
    low, high = max(math.floor(dim_of(rs["beta_fast"])), 0), min(math.ceil(dim_of(rs["beta_slow"])), d - 1)
    keep = 1 - ((torch.arange(d // 2, dtype=torch.float32) - low) / max(high - low, 0.001)).clamp(0, 1)
    inv = inter * (1 - keep) + extra * keep
    m = yarn_mscale(rs["factor"], rs["mscale"]) / yarn_mscale(rs["factor"], rs["mscale_all_dim"])
    f = torch.outer(torch.arange(n, dtype=torch.float32), inv)
    return f.cos() * m, f.sin() * m


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        h, self.qk = C.num_attention_heads, C.qk_nope_head_dim + C.qk_rope_head_dim
        self.q_a_proj = Linear(C.hidden_size, C.q_lora_rank)
        self.q_a_layernorm = RMSNorm(C.q_lora_rank)
        self.q_b_proj = Linear(C.q_lora_rank, h * self.qk)
        self.kv_a_proj_with_mqa = Linear(C.hidden_size, C.kv_lora_rank + C.qk_rope_head_dim)
        self.kv_a_layernorm = RMSNorm(C.kv_lora_rank)
        self.kv_b_proj = Linear(C.kv_lora_rank, h * (C.qk_nope_head_dim + C.v_head_dim))
        self.o_proj = Linear(h * C.v_head_dim, C.hidden_size, std=0.1 / math.sqrt(h * C.v_head_dim))
        self.scale = self.qk ** -0.5 * yarn_mscale(C.rope_scaling["factor"], C.rope_scaling["mscale_all_dim"]) ** 2

    def forward(self, x, cos, sin):
        B, S, _ = x.shape
        h, n, r, v = C.num_attention_heads, C.qk_nope_head_dim, C.qk_rope_head_dim, C.v_head_dim
        x = x.to(DTYPE)
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))).view(B, S, h, self.qk).transpose(1, 2)
        qn, qr = q.split([n, r], -1)
        c, kr = self.kv_a_proj_with_mqa(x).split([C.kv_lora_rank, r], -1)
        kv = self.kv_b_proj(self.kv_a_layernorm(c)).view(B, S, h, n + v).transpose(1, 2)
        kn, vv = kv.split([n, v], -1)
        kr = rope(kr.unsqueeze(1), cos, sin).expand(-1, h, -1, -1)
        q, k = torch.cat([qn, rope(qr, cos, sin)], -1), torch.cat([kn, kr], -1)
        o = causal_softmax(q @ k.mT, self.scale) @ vv
        return self.o_proj(o.transpose(1, 2).reshape(B, S, h * v))


class MLP(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.gate_proj, self.up_proj = Linear(C.hidden_size, inner), Linear(C.hidden_size, inner)
        self.down_proj = Linear(inner, C.hidden_size, std=0.1 / math.sqrt(inner))

    def forward(self, x):
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        E, H, I = C.n_routed_experts, C.hidden_size, C.moe_intermediate_size
        self.gate_proj = nn.Parameter(torch.randn(E, I, H) * 0.5 / math.sqrt(H))
        self.up_proj = nn.Parameter(torch.randn(E, I, H) * 0.5 / math.sqrt(H))
        self.down_proj = nn.Parameter(torch.randn(E, H, I) * 0.1 / math.sqrt(I))

    def forward(self, x, idx, weight):
        """x [T,H], idx/weight [T,K]: the rows of each expert side by side, padded to one length, then batched products."""
        flat, K, E = idx.flatten(), idx.shape[1], C.n_routed_experts
        order = flat.argsort(stable=True)
        counts = flat.bincount(minlength=E)
        first = counts.cumsum(0) - counts
        cap = -(-int(counts.max()) // 128) * 128             # few distinct shapes: the kernels are compiled per shape
        expert = flat.index_select(0, order)
        slot = expert * cap + torch.arange(flat.numel()) - first.index_select(0, expert)
        rows = x.new_zeros(E * cap, x.shape[1]).index_copy(0, slot, x.index_select(0, order // K)).view(E, cap, -1)
        g, u = (torch.bmm(rows, cast(w).mT) for w in (self.gate_proj, self.up_proj))
        y = torch.bmm(swiglu(g, u), cast(self.down_proj).mT).flatten(0, 1)
        place = torch.empty_like(slot).index_copy(0, order, slot)                       # back in token order
        y = y.index_select(0, place).view(-1, K, x.shape[1])
        return torch.bmm(weight.to(y.dtype).unsqueeze(1), y).squeeze(1)


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(C.n_routed_experts, C.hidden_size) * 0.02)
        self.register_buffer("e_score_correction_bias", torch.zeros(C.n_routed_experts))

    def forward(self, x):
        E, G = C.n_routed_experts, C.n_group
        scores = F.linear(x.float(), self.weight).sigmoid()
        with torch.no_grad():
            choice = scores + self.e_score_correction_bias
            group = choice.view(-1, G, E // G).topk(2, -1)[0].sum(-1)
            mask = torch.zeros_like(group).scatter_(1, group.topk(C.topk_group, -1)[1], 1.0)
            choice = choice.masked_fill(mask.repeat_interleave(E // G, 1) == 0, -math.inf)
            idx = choice.topk(C.num_experts_per_tok, -1)[1]
        w = scores.gather(1, idx)
        return scores, idx, w / (w.sum(-1, keepdim=True) + 1e-20) * C.routed_scaling_factor


class MoE(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.experts, self.shared_experts = Gate(), Experts(), MLP(C.moe_intermediate_size * C.n_shared_experts)
        self.register_buffer("load", torch.zeros(C.n_routed_experts), persistent=False)
        self.balance, self.trace = None, None

    def forward(self, x):
        B, S, H = x.shape
        t = x.reshape(-1, H)
        scores, idx, w = self.gate(t)
        self.trace = (idx, w)
        if self.training:
            used = F.one_hot(idx, C.n_routed_experts).sum(1).view(B, S, -1).float()
            self.load += used.sum((0, 1))
            f = used.mean(1) * C.n_routed_experts / C.num_experts_per_tok              # sequence balance, as in the paper
            p = (scores / scores.sum(-1, keepdim=True)).view(B, S, -1).mean(1)
            self.balance = (f * p).sum(-1).mean()
        t = t.to(DTYPE)
        return (self.experts(t, idx, w) + self.shared_experts(t)).view(B, S, H)


class Layer(nn.Module):
    def __init__(self, dense):
        super().__init__()
        self.input_layernorm, self.self_attn = RMSNorm(C.hidden_size), Attention()
        self.post_attention_layernorm = RMSNorm(C.hidden_size)
        self.mlp = MLP(C.intermediate_size) if dense else MoE()

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class MTP(Layer):
    """Predicts token t+2 from the main model's state at t and the embedding of token t+1."""
    def __init__(self):
        super().__init__(dense=False)
        self.enorm, self.hnorm = RMSNorm(C.hidden_size), RMSNorm(C.hidden_size)
        self.eh_proj = Linear(2 * C.hidden_size, C.hidden_size, quant=False)
        self.shared_head_norm = RMSNorm(C.hidden_size)

    def forward(self, h, e, cos, sin):
        x = self.eh_proj(torch.cat([self.enorm(e), self.hnorm(h)], -1)).float()
        return self.shared_head_norm(super().forward(x, cos, sin))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(C.vocab_size, C.hidden_size)
        nn.init.normal_(self.embed_tokens.weight, std=0.1)
        self.layers = nn.ModuleList([Layer(i < C.first_k_dense_replace) for i in range(C.num_hidden_layers)])
        self.norm, self.lm_head, self.mtp = RMSNorm(C.hidden_size), Linear(C.hidden_size, C.vocab_size, 0.02, quant=False), MTP()
        cos, sin = rope_table(C.max_position_embeddings)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def hidden(self, ids):
        """What the head sees: the last layer's output after the final norm."""
        S = ids.shape[1]
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, self.cos[:S], self.sin[:S])
        return self.norm(x)

    def draft(self, h, nxt):
        """h [B,S,H] from hidden(); nxt [B,S] the tokens one place on."""
        S = nxt.shape[1]
        return self.lm_head(self.mtp(h[:, :S], self.embed_tokens(nxt), self.cos[:S], self.sin[:S]))

    def moes(self):
        return [l.mlp for l in self.layers if isinstance(l.mlp, MoE)] + [self.mtp.mlp]
