"""Files of weights with the published names and shapes, random numbers in them, and the slow formulas beside them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from safetensors.torch import save_file

from patchify_core.retrieval.rerank import LearnedSettings, RerankSettings, load_reranker
from tests.tiny import DIM

ATTENTION = {
    "in_proj_weight": (384, 128),
    "in_proj_bias": (384,),
    "out_proj.weight": (128, 128),
    "out_proj.bias": (128,),
}


def published_shapes(name, channels=768, binary=False):
    """Names and shapes of the tensors in the authors' checkpoints, as their code saves them."""
    shapes = {"remap_local.0.weight": (128, channels), "remap_local.0.bias": (128,)}
    norm = 1
    if binary:
        shapes, norm = {"remap_local.0.W": (channels, 128)}, 2
        shapes |= {"remap_local.1.weight": (128, 128), "remap_local.1.bias": (128,)}
    shapes |= {f"remap_local.{norm}.weight": (128,), f"remap_local.{norm}.bias": (128,)}
    if name == "ames":
        shapes |= {"mtc_token": (128,), "classifier.weight": (1, 128), "classifier.bias": (1,)}
        for layer in range(5):
            at = f"decoder.layers.{layer}."
            shapes |= {f"{at}{kind}_attn.{key}": s for kind in ("self", "cross") for key, s in ATTENTION.items()}
            shapes |= {f"{at}linear1.weight": (1024, 128), f"{at}linear1.bias": (1024,)}
            shapes |= {f"{at}linear2.weight": (128, 1024), f"{at}linear2.bias": (128,)}
            shapes |= {f"{at}norm{n}.{part}": (128,) for n in (1, 2, 3) for part in ("weight", "bias")}
        return shapes
    shapes |= {"dust_bin": (), "dust_bin_mlp.0.weight": (128, 128), "dust_bin_mlp.0.bias": (128,)}
    shapes |= {"dust_bin_mlp.2.weight": (1, 128), "dust_bin_mlp.2.bias": (1,)}
    shapes |= {"f.0.weight": (16, 1), "f.0.bias": (16,), "f.1.weight": (16,), "f.1.bias": (16,)}
    shapes |= {"f.3.weight": (1, 16), "f.3.bias": (1,), "g.0.weight": (64, 1), "g.0.bias": (64,)}
    return shapes | {"g.2.weight": (1, 64), "g.2.bias": (1,)}


def detector_shapes(channels=768):
    shapes = {"conv1.weight": (channels, channels, 1, 1), "conv1.bias": (channels,)}
    shapes |= {f"bn.{key}": (channels,) for key in ("weight", "bias", "running_mean", "running_var")}
    return shapes | {"bn.num_batches_tracked": (), "conv2.weight": (1, channels, 1, 1), "conv2.bias": (1,)}


def random_state(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in shapes.items():
        value = torch.randn(shape, generator=generator) * (1.5 / math.sqrt(shape[1]) if len(shape) > 1 else 0.3)
        state[key] = value + 1 if "norm" in key and key.endswith("weight") else value
        if key.endswith("running_var"):
            state[key] = value.abs() + 0.5
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
    return state


def save(path, state, how="training"):
    """A file of weights, as the authors' training leaves it or as somebody converted it."""
    if how == "safetensors":
        save_file(state, path.with_suffix(".safetensors"))
        return path.with_suffix(".safetensors")
    torch.save({"state": state, "optim": {"step": 3}, "epoch": 20} if how == "training" else state, path)
    return path


def files(folder, name, channels=DIM, binary=False, seed=0):
    """Settings with random weights and a random detector."""
    folder.mkdir(exist_ok=True)
    weights = save(
        folder / f"{name}-{binary}-{channels}.pt", random_state(published_shapes(name, channels, binary), seed)
    )
    detector = save(folder / f"detector-{channels}.pt", random_state(detector_shapes(channels), seed + 1))
    return LearnedSettings(weights, detector, long_side=48, query_descriptors=20, gallery_descriptors=12)


def reranker(name, chosen, **changes):
    return load_reranker(name, RerankSettings(learned=replace(chosen, **changes)))


# Slow transcriptions: number by number, in double precision, from the papers -----------------------------------


def unit(row):
    length = math.sqrt(sum(value * value for value in row))
    return np.array([value / max(length, 1e-12) for value in row])


def linear(state, key, row):
    return np.array([float(w @ row) for w in state[f"{key}.weight"]]) + state[f"{key}.bias"]


def norm(state, key, row, epsilon=1e-5):
    mean = sum(row) / len(row)
    spread = sum((value - mean) ** 2 for value in row) / len(row)
    return (row - mean) / math.sqrt(spread + epsilon) * state[f"{key}.weight"] + state[f"{key}.bias"]


def gelu(row):
    return np.array([value * 0.5 * (1 + math.erf(value / math.sqrt(2))) for value in row])


def slow_remap(state, row, binary):
    if binary:
        signs = np.sign(np.array([float(column @ unit(row)) for column in state["remap_local.0.W"].T]))
        return norm(state, "remap_local.2", linear(state, "remap_local.1", signs))
    return norm(state, "remap_local.1", linear(state, "remap_local.0", unit(row)))


def slow_attention(state, key, tokens, sees):
    """Two heads of 64; token i attends to the tokens j of which sees(i, j)."""
    weight, bias = state[f"{key}.in_proj_weight"], state[f"{key}.in_proj_bias"]
    made = [weight @ token + bias for token in tokens]
    answers = []
    for i, asking in enumerate(made):
        answer = []
        for head in (slice(0, 64), slice(64, 128)):
            seen = [j for j in range(len(tokens)) if sees(i, j)]
            heat = [math.exp(asking[:128][head] @ made[j][128:256][head] / 8) for j in seen]
            answer.extend(sum(h * made[j][256:][head] for h, j in zip(heat, seen, strict=True)) / sum(heat))
        answers.append(state[f"{key}.out_proj.weight"] @ np.array(answer) + state[f"{key}.out_proj.bias"])
    return answers


def slow_ames(state, query, gallery, binary=False):
    theirs = [slow_remap(state, row, binary) for row in gallery]
    if not binary:
        theirs = [row.astype(np.float32).astype(np.float16).astype(np.float64) for row in theirs]
    tokens = [state["mtc_token"], *(slow_remap(state, row, binary) for row in query), *theirs]
    side = [None] + ["query"] * len(query) + ["gallery"] * len(gallery)
    for layer in range(5):
        at = f"decoder.layers.{layer}."
        within = slow_attention(
            state, f"{at}self_attn", tokens, lambda i, j: None in (side[i], side[j]) or side[i] == side[j]
        )
        tokens = [norm(state, f"{at}norm1", a + b) for a, b in zip(tokens, within, strict=True)]
        between = slow_attention(
            state, f"{at}cross_attn", tokens, lambda i, j: None in (side[i], side[j]) or side[i] != side[j]
        )
        tokens = [norm(state, f"{at}norm2", a + b) for a, b in zip(tokens, between, strict=True)]
        inner = [linear(state, f"{at}linear2", np.maximum(linear(state, f"{at}linear1", t), 0)) for t in tokens]
        tokens = [norm(state, f"{at}norm3", a + b) for a, b in zip(tokens, inner, strict=True)]
    return float(linear(state, "classifier", tokens[0])[0])


def slow_elvis(state, query, gallery, binary=False):
    """Sinkhorn by scaling rows and columns in turn, as its textbooks have it."""
    query, gallery = ([unit(slow_remap(state, row, binary)) for row in rows] for rows in (query, gallery))

    def bin_gain(row):
        return math.tanh(linear(state, "dust_bin_mlp.2", gelu(linear(state, "dust_bin_mlp.0", row)))[0])

    gains = [[float(q @ g) for g in gallery] + [bin_gain(q)] for q in query]
    gains.append([*(bin_gain(g) for g in gallery), float(state["dust_bin"])])
    plan = np.exp(10 * np.array(gains))
    rows = np.array([1.0] * len(query) + [len(gallery)])
    columns = np.array([1.0] * len(gallery) + [len(query)])
    right = np.ones(len(columns))
    for _ in range(10):
        left = rows / (plan @ right)
        right = columns / (plan.T @ left)
    plan = (left[:, None] * plan * right)[:-1, :-1]
    total = 0.0
    for best in [*plan.max(axis=1), *plan.max(axis=0)]:
        hidden = norm(state, "f.1", linear(state, "f.0", np.array([best])), 1e-6)
        total += 1 / (1 + math.exp(-linear(state, "f.3", gelu(hidden))[0]))
    return total


SLOW = {"ames": slow_ames, "elvis": slow_elvis}
KINDS = [("ames", False), ("ames", True), ("elvis", False), ("elvis", True)]
