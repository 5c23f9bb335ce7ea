"""Language models of `transformers` with initial weights."""

from typing import Any

import torch
from torch import Tensor, nn

from experiments.models.loss import head_loss
from experiments.models.settings import (
    DeepseekV2Settings,
    Qwen3MoeSettings,
    Qwen3Settings,
)

INITIAL_STD = 0.02


class CausalLM(nn.Module):
    """A causal language model of `transformers`, built from its settings without a download.

    In training, the load-balancing loss of a mixture of experts adds to the gradient, but not to
    the returned loss.
    """

    def __init__(self, settings: Qwen3Settings | Qwen3MoeSettings | DeepseekV2Settings) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoModelForCausalLM  # slow; not needed for GPT-2

        config = AutoConfig.for_model(settings.family, **_configuration(settings))
        self.model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
        self.settings = settings
        self._router_logits: list[Tensor] = []
        for name, module in self.model.named_modules():
            if name.endswith("mlp.gate"):  # the router; a dense block has a gate_proj instead
                module.register_forward_hook(self._keep_router_logits)

    def initial_std(self, name: str) -> float | None:
        """Return the standard deviation of a parameter's initial values; None if they are ones."""
        return None if "norm" in name.split(".")[-2] else INITIAL_STD

    def fill_buffers(self, module: nn.Module) -> None:
        """Compute the buffers of a module, those of the rotary embedding, on the CPU."""
        with torch.no_grad(), torch.device("cpu"):
            self.model._init_weights(module)

    def tie_weights(self) -> None:
        """Use the embedding as the output layer, if so set."""
        self.model.tie_weights()

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of `targets`, a scalar."""
        self._router_logits.clear()
        hidden = self.model.model(input_ids=tokens, use_cache=False).last_hidden_state
        loss = head_loss(hidden, self.model.lm_head.weight, targets)
        if self.training and self._router_logits:
            balance = self._load_balancing_loss()
            loss = loss + (balance - balance.detach())  # adds 0 to the loss, and the gradient
        return loss

    def _load_balancing_loss(self) -> Tensor:
        """Return the weighted loss of Switch Transformers, arXiv:2101.03961, equations 4 to 6."""
        from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

        settings = self.settings
        return settings.router_aux_loss * load_balancing_loss_func(
            tuple(self._router_logits), settings.experts, settings.experts_per_token
        )

    def _keep_router_logits(self, _: nn.Module, __: Any, output: tuple[Tensor, ...]) -> None:
        self._router_logits.append(output[0])


def _configuration(
    settings: Qwen3Settings | Qwen3MoeSettings | DeepseekV2Settings,
) -> dict[str, Any]:
    """Return the settings by the names in a configuration of `transformers`."""
    common = {
        "num_hidden_layers": settings.layers,
        "hidden_size": settings.width,
        "num_attention_heads": settings.heads,
        "max_position_embeddings": settings.context,
        "vocab_size": settings.vocab_size,
        "intermediate_size": settings.mlp_width,
        "rope_parameters": {"rope_type": "default", "rope_theta": settings.rope_theta},
        "tie_word_embeddings": settings.tie_embeddings,
        "initializer_range": INITIAL_STD,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if isinstance(settings, Qwen3Settings):
        common |= {"num_key_value_heads": settings.kv_heads, "head_dim": settings.head_dim}
    if isinstance(settings, Qwen3MoeSettings):
        common |= {
            "num_experts": settings.experts,
            "num_experts_per_tok": settings.experts_per_token,
            "moe_intermediate_size": settings.expert_width,
            "norm_topk_prob": True,
        }
    if isinstance(settings, DeepseekV2Settings):
        common |= {
            "num_key_value_heads": settings.heads,
            "n_routed_experts": settings.experts,
            "num_experts_per_tok": settings.experts_per_token,
            "moe_intermediate_size": settings.expert_width,
            "n_shared_experts": settings.shared_experts,
            "first_k_dense_replace": settings.dense_layers,
            "kv_lora_rank": settings.kv_rank,
            "q_lora_rank": None,
            "qk_nope_head_dim": settings.qk_nope_head_dim,
            "qk_rope_head_dim": settings.qk_rope_head_dim,
            "v_head_dim": settings.v_head_dim,
            "topk_method": "greedy",
            "norm_topk_prob": False,
            "routed_scaling_factor": 1.0,
        }
    return common
