"""Settings of the language models in models.yaml."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from experiments.settings import ConfigError, Settings


class _Model(Settings):
    """Settings of every decoder-only language model."""

    layers: int = Field(gt=0, description="number of transformer blocks")
    width: int = Field(gt=0, description="size of the residual stream")
    heads: int = Field(gt=0, description="attention heads of the queries")
    context: int = Field(gt=0, description="longest sequence, in tokens")
    vocab_size: int = Field(gt=0, description="rows of the embedding")

    @property
    def tensor_parallel_sizes(self) -> dict[str, int]:
        """The fields that tensor parallelism must divide; empty if the family cannot be split."""
        return {}


class GPT2Settings(_Model):
    """GPT-2 as nanoGPT trains it."""

    family: Literal["gpt2"] = Field(description="the architecture")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "GPT2Settings":
        if self.width % self.heads:
            raise ConfigError(
                ("heads",), f"is {self.heads}, but it must divide width, {self.width}"
            )
        return self

    @property
    def head_rows(self) -> dict[str, int]:
        """Rows of a head, by the name of a matrix whose rows are split by heads."""
        return dict.fromkeys(("q_proj", "k_proj"), self.width // self.heads)


class _Rotary(_Model):
    """Settings of every model with rotary position embeddings."""

    mlp_width: int = Field(gt=0, description="inner size of a dense feed-forward block")
    rope_theta: float = Field(gt=0, description="base of the rotary position embedding")
    tie_embeddings: bool = Field(description="whether the output layer is the embedding")


class Qwen3Settings(_Rotary):
    """Qwen3 (arXiv:2505.09388): grouped-query attention with normalised queries and keys."""

    family: Literal["qwen3"] = Field(description="the architecture")
    kv_heads: int = Field(gt=0, description="attention heads of keys and values; must divide heads")
    head_dim: int = Field(gt=0, multiple_of=2, description="size of a head, independent of width")

    @model_validator(mode="after")
    def _kv_heads_divide_heads(self) -> "Qwen3Settings":
        if self.heads % self.kv_heads:
            raise ConfigError(
                ("kv_heads",), f"is {self.kv_heads}, but it must divide heads, {self.heads}"
            )
        return self

    @property
    def tensor_parallel_sizes(self) -> dict[str, int]:
        """The fields that tensor parallelism must divide."""
        return {"kv_heads": self.kv_heads, "mlp_width": self.mlp_width}

    @property
    def head_rows(self) -> dict[str, int]:
        """Rows of a head, by the name of a matrix whose rows are split by heads."""
        return dict.fromkeys(("q_proj", "k_proj"), self.head_dim)


class _Mixture(Settings):
    """Settings of routed experts, which replace a dense feed-forward block."""

    experts: int = Field(gt=1, description="routed experts of a block")
    experts_per_token: int = Field(gt=0, description="routed experts of a token; at most `experts`")
    expert_width: int = Field(gt=0, description="inner size of an expert")
    router_aux_loss: float = Field(
        ge=0, description="weight of the loss that balances the experts' loads (arXiv:2101.03961)"
    )

    @model_validator(mode="after")
    def _tokens_find_their_experts(self) -> "_Mixture":
        if self.experts_per_token > self.experts:
            raise ConfigError(
                ("experts_per_token",),
                f"is {self.experts_per_token}, but it must be at most experts, {self.experts}",
            )
        return self


class Qwen3MoeSettings(_Mixture, Qwen3Settings):
    """Qwen3 with a mixture of experts in every block (arXiv:2505.09388)."""

    family: Literal["qwen3_moe"] = Field(description="the architecture")

    @property
    def tensor_parallel_sizes(self) -> dict[str, int]:
        """Empty: the experts cannot be split."""
        return {}


class DeepseekV2Settings(_Mixture, _Rotary):
    """DeepSeek-V2 (arXiv:2405.04434): latent attention, shared and routed experts."""

    family: Literal["deepseek_v2"] = Field(description="the architecture")
    dense_layers: int = Field(ge=0, description="first blocks, which have no experts")
    shared_experts: int = Field(gt=0, description="experts of every token")
    kv_rank: int = Field(
        gt=0, description="size of the latent from which keys and values are computed"
    )
    qk_nope_head_dim: int = Field(
        gt=0, description="size of the part of a head without rotary embedding"
    )
    qk_rope_head_dim: int = Field(
        gt=0, multiple_of=2, description="size of the part of a head with rotary embedding"
    )
    v_head_dim: int = Field(gt=0, description="size of a value head")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "DeepseekV2Settings":
        if self.width % self.heads:
            raise ConfigError(
                ("heads",), f"is {self.heads}, but it must divide width, {self.width}"
            )
        return self

    @property
    def head_rows(self) -> dict[str, int]:
        """Rows of a head, by the name of a matrix whose rows are split by heads.

        One matrix, kv_b_proj, gives the keys and the values; its rows are grouped by heads.
        """
        return {
            "q_proj": self.qk_nope_head_dim + self.qk_rope_head_dim,
            "kv_b_proj": self.qk_nope_head_dim + self.v_head_dim,
        }


ModelSettings = Annotated[
    GPT2Settings | Qwen3Settings | Qwen3MoeSettings | DeepseekV2Settings,
    Field(discriminator="family"),
]
