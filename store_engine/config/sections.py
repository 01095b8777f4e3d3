"""The sections of a config: frozen dataclasses, each with its rules beside its fields.

docs/config.md is made from this file: a comment behind a field is its description there.
"""

from dataclasses import dataclass
from typing import Literal

from store_engine.config.settings import check_ranges, require, setting

DropoutPlace = Literal["embedding", "attention", "mlp", "head"]
LoraTarget = Literal["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]

_MAX_SEED = 2_000_000_000  # faiss takes 32 bits


@dataclass(frozen=True)
class DataConfig:
    """Which catalogue and histories, and how they are read."""

    name: Literal["ml-100k", "synthetic", "files"] = "ml-100k"
    # folder; "" = the cache for ml-100k; with one, synthetic becomes files
    path: str = setting("", is_runtime=True)
    # within path; csv, tsv, parquet, jsonl or RecBole .item
    items: str = setting("items.csv", is_runtime=True)
    interactions: str = setting("interactions.csv", is_runtime=True)  # within path
    # within path; what users were shown, which recommender.scoring learns from: user_id, item_id,
    # timestamp and label, 1 where it was clicked. "": random items stand for what was not clicked
    impressions: str = ""
    item_id: str = "item_id"  # column name, in both files
    user_id: str = "user_id"  # column name
    timestamp: str = "timestamp"  # column name
    # columns of items, the title first; without it, your own files are read for `title` alone
    text_fields: tuple[str, ...] = ("movie_title", "class", "release_year")
    strip_html: bool = True  # make plain text of HTML's tags and entities, in new items too
    min_events: int = setting(3, 3, 1_000_000)  # users with fewer are dropped and counted
    ties: Literal["file", "shuffle"] = "file"  # order of events with one timestamp
    # who and what is held out. leave_one_out: each user's last event is the test, the one before it
    # the validation. by_user: of users who are drawn, all events, the last of which is to be found.
    # temporal: what came after one point in time, the same for all, the next event to be found
    split: Literal["leave_one_out", "by_user", "temporal"] = "leave_one_out"
    # of the users (by_user) or the events (temporal), the validation's
    valid_share: float = setting(0.1, 0.0001, 0.9)
    test_share: float = setting(0.1, 0.0001, 0.9)  # the same, the test's
    # of shuffled ties, of the users drawn by `split`, and of synthetic data
    seed: int = setting(0, 0, _MAX_SEED)
    text_vocab_size: int = setting(2048, 264, 1_000_000)  # a backbone has its own vocabulary
    max_text_tokens: int = setting(64, 1, 65_536)  # an attribute is cut after this many
    max_history: int = setting(50, 1, 65_536)  # items of history the recommender sees
    num_items: int = setting(200, 1, 10_000_000)  # synthetic only
    num_users: int = setting(400, 1, 10_000_000)  # synthetic only
    num_topics: int = setting(10, 1, 100_000)  # synthetic only

    def __post_init__(self) -> None:
        """Refuses what cannot be read."""
        check_ranges(self, "data")
        require(bool(self.text_fields), "data.text_fields must name at least one column")
        names = self.text_fields
        require(len(set(names)) == len(names), "data.text_fields must not name a column twice")
        shares = self.valid_share, self.test_share
        require(
            sum(shares) < 1,
            f"data.valid_share and data.test_share must leave something to train on, got "
            f"{shares[0]:g} and {shares[1]:g}",
        )
        require(
            self.name != "synthetic" or self.split != "temporal",
            "data.split = 'temporal' needs events with times, data.name = 'synthetic' has none",
        )


@dataclass(frozen=True)
class ModelConfig:
    """The one LLM: a Llama-family decoder. With a backbone all but `dropout` comes from it."""

    hidden_size: int = setting(128, 1, 65_536)  # components of a hidden state
    num_layers: int = setting(4, 1, 1024)
    num_heads: int = setting(4, 1, 1024)  # heads of the queries
    num_kv_heads: int = setting(2, 1, 1024)  # heads of keys and values; divides num_heads
    head_dim: int = setting(32, 2, 1024)  # components of a head; even
    intermediate_size: int = setting(384, 1, 1_000_000)  # of the MLP
    rope_theta: float = setting(10000.0, 1.0, 1e12)  # base of the rotary frequencies
    rope_scaling: Literal["none", "llama3"] = "none"
    rope_factor: float = setting(8.0, 1.0, 1e4)  # this one and the next three: llama3 only
    rope_low_frequency: float = setting(1.0, 1e-3, 1e4)  # in waves per rope_original_tokens
    rope_high_frequency: float = setting(4.0, 1e-3, 1e4)  # in waves per rope_original_tokens
    rope_original_tokens: int = setting(8192, 1, 100_000_000)  # context of the pretraining
    norm_eps: float = setting(1e-6, 1e-12, 0.1)  # of RMSNorm
    attention_bias: Literal["none", "qkv", "all"] = "none"  # Qwen2 has qkv
    qk_norm: bool = False  # Qwen3: an RMSNorm on every head's q and k
    tie_text_head: bool = True  # the text head is the text embedding
    dropout: float = setting(0.1, 0.0, 0.99)
    # where it acts: on what the layers read, on what attention and the MLP add, and on the states
    # that the heads of codes and items read
    dropout_places: tuple[DropoutPlace, ...] = ("embedding", "attention", "mlp")
    backbone: str = ""  # pretrained: a Hugging Face folder or a .gguf; "" = from scratch

    def __post_init__(self) -> None:
        """Refuses sizes that do not fit each other."""
        check_ranges(self, "model")
        heads, kv_heads = self.num_heads, self.num_kv_heads
        require(
            heads % kv_heads == 0,
            f"model.num_heads must be a multiple of num_kv_heads, got {heads} and {kv_heads}",
        )
        require(self.head_dim % 2 == 0, "model.head_dim must be even (RoPE rotates pairs)")
        low, high = self.rope_low_frequency, self.rope_high_frequency
        require(
            self.rope_scaling == "none" or low < high,
            f"model.rope_low_frequency must be below rope_high_frequency, got {low} and {high}",
        )


@dataclass(frozen=True)
class TokenizerConfig:
    """Stage 1: items become dense tokens, dense tokens become codes."""

    num_codes: int = setting(3, 1, 16)  # palette size; codes per item before a collision suffix
    codebook_size: int = setting(64, 1, 65_536)  # codes per position
    # what becomes codes. dense_tokens: the LLM's reading of the text; collaborative: text beside
    # co-visits, training-free
    space: Literal["dense_tokens", "collaborative"] = "dense_tokens"
    # parallel: k-means per position, as in the papers; residual, rq_vae, opq: baselines
    quantizer: Literal["parallel", "residual", "rq_vae", "opq"] = "parallel"
    # codes of your own in place of a quantizer's, num_codes of them: a file within data.path with
    # the columns of data.item_id and code_0, code_1, ... as `store-engine tokenize --out` writes
    # it; "" = none. With last_level = "item" they are the levels above the item
    sids_file: str = ""
    # code: the last code means something, as in the papers; item: it is the item itself among those
    # that share its prefix, with a row of its own. The levels above are balanced clusters then
    last_level: Literal["code", "item"] = "code"
    collisions: Literal["suffix", "reassign", "share"] = "suffix"  # of items with the same codes
    pca_dim: int = setting(32, 1, 65_536)  # dimensions that k-means sees
    kmeans_iterations: int = setting(25, 1, 10_000)
    epochs: int = setting(20, 0, 100_000)  # passes over the catalogue
    items_per_step: int = setting(64, 1, 1_000_000)  # over all ranks
    lr: float = setting(2e-3, 1e-12, 10.0)
    contrastive_weight: float = setting(0.1, 0.0, 1000.0)  # 0 switches LAMIA's loss off
    contrastive_temperature: float = setting(0.07, 1e-3, 100.0)
    # what an item's vectors are near to. self: to themselves alone, LAMIA's terms; co_visited: also
    # to those of an item that was visited next to it, in the training histories
    positives: Literal["self", "co_visited"] = "self"

    def __post_init__(self) -> None:
        """Refuses SIDs that the core cannot hold."""
        check_ranges(self, "tokenizer")
        levels = self.num_codes + (self.collisions != "share")
        require(
            levels <= 16,
            f"tokenizer.num_codes must be at most 15 with collisions = '{self.collisions}', which "
            f"can add a level (a SID has at most 16), got {self.num_codes}",
        )
        require(
            not self.sids_file or self.collisions != "reassign",
            "tokenizer.sids_file does not go with tokenizer.collisions = 'reassign', as a file has "
            "no distances; take 'suffix' or 'share'",
        )


@dataclass(frozen=True)
class EvidenceConfig:
    """Item-item evidence: which items followed which, counted and smoothed, no network."""

    window: int = setting(5, 1, 1000)  # most steps between two events that are a visit together
    smoothing: float = setting(10.0, 0.0, 1e9)  # added to an item's frequency
    rank: int = setting(256, 1, 4096)  # of the spaces' truncated SVDs
    neighbours: int = setting(200, 1, 65_536)  # kept per item
    # items above which the regression, whose memory grows with their square, is left out
    max_regression_items: int = setting(20_000, 0, 200_000)

    def __post_init__(self) -> None:
        """Checks the ranges."""
        check_ranges(self, "evidence")


@dataclass(frozen=True)
class RecommenderConfig:
    """Stage 2: the same weights learn to write the next item's codes."""

    epochs: int = setting(20, 0, 100_000)  # passes over the training histories
    tokens_per_step: int = setting(8192, 1, 100_000_000)  # over all ranks
    lr: float = setting(2e-3, 1e-12, 10.0)
    # text-to-token: passes over the items per epoch; 0 switches it off
    alignment: float = setting(1.0, 0.0, 1000.0)
    # token-to-text: passes over the items per epoch
    reconstruction: float = setting(0.0, 0.0, 1000.0)
    # click-through: CTR examples per user and epoch, of data.impressions if there are
    scoring: float = setting(0.0, 0.0, 1000.0)
    # codes: every code of a history is a position, as in STORE; items: every item is one
    history: Literal["codes", "items"] = "codes"
    # transformer: a code is a step of the LLM; heads: one small head per level on the last state
    decoder: Literal["transformer", "heads"] = "transformer"
    head_size: int = setting(128, 1, 65_536)  # hidden units of one of the small heads
    # decoder = "transformer": a code also sees the state that its item's first code is read from
    skip: bool = False
    # the codes' first embeddings; with tokenizer.last_level = "item" the items' rows and heads too
    init_codes: Literal["centroids", "normal"] = "centroids"
    # with last_level = "item": a row that is read is the row that is written
    tie_items: bool = True
    # share of the items whose learned residual a step leaves out, so that text must do
    residual_dropout: float = setting(0.0, 0.0, 0.99)
    # weight of a softmax over all items on the same state; needs last_level = "item"
    item_softmax: float = setting(0.0, 0.0, 1000.0)
    first_item_loss: bool = False  # also learn what a history begins with
    # events of context that a window of a long history repeats from the one before, without a loss
    window_overlap: int = setting(0, 0, 65_535)

    def __post_init__(self) -> None:
        """Checks the ranges."""
        check_ranges(self, "recommender")


@dataclass(frozen=True)
class TrainConfig:
    """What both stages share."""

    seed: int = setting(0, 0, _MAX_SEED)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bf16 where the machine has it
    weight_decay: float = setting(0.01, 0.0, 10.0)
    table_weight_decay: float = setting(0.0, 0.0, 10.0)  # of embeddings and the rows of heads
    beta2: float = setting(0.98, 0.0, 0.999999)  # of AdamW
    grad_clip: float = setting(1.0, 0.0, 1e6)  # largest norm of a gradient; 0 = none
    schedule: Literal["cosine", "wsd"] = "cosine"  # wsd: warm-up, stable, decay
    warmup: float = setting(0.05, 0.0, 1.0)  # share of the steps
    decay: float = setting(0.2, 0.0, 1.0)  # share of the steps, wsd only
    min_lr: float = setting(0.05, 0.0, 1.0)  # the schedule's end, as a share of lr
    save_every: int = setting(100, 1, 100_000_000, is_runtime=True)  # steps between checkpoints
    # steps or epochs between validation measurements in stage 2; 0 = never
    eval_every: int = setting(0, 0, 100_000_000)
    eval_unit: Literal["steps", "epochs"] = "steps"  # of eval_every
    eval_users: int = setting(1000, 1, 100_000_000)  # of a measurement, a fixed sample
    keep: Literal["best", "last"] = "last"  # the weights that stage 2 ends with
    # measurements without a better one, after which stage 2 stops; 0 = never
    patience: int = setting(0, 0, 1_000_000)
    # train stage 2 anew for as many epochs as validation chose, the validation events included
    refit: bool = False
    # per rank; 0 = OMP_NUM_THREADS, or as many as are fastest on cores / ranks
    threads: int = setting(0, 0, 1024, is_runtime=True)
    fused_loss: bool = True  # False: materialise the logits; slower, the same losses
    # stage 2: keep the layers' inputs, recompute the rest; the same losses
    activation_checkpointing: bool = setting(False, is_runtime=True)
    # torch.compile, layer by layer; auto: on CUDA, unless ZeRO-3 or recomputation forbids it
    compile: Literal[True, False, "auto"] = setting("auto", is_runtime=True)
    # write events beside train_log.jsonl; needs the extra `watch`
    tensorboard: bool = setting(False, is_runtime=True)
    # 0 trains every weight; else adapters of a backbone, which stays frozen
    lora_rank: int = setting(0, 0, 4096)
    lora_alpha: int = setting(16, 1, 1_000_000)  # an adapter's output is scaled by alpha / rank
    lora_dropout: float = setting(0.0, 0.0, 0.99)
    lora_targets: tuple[LoraTarget, ...] = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")

    def __post_init__(self) -> None:
        """Refuses options that need others."""
        check_ranges(self, "train")
        require(
            self.eval_every > 0 or (self.keep == "last" and self.patience == 0),
            "train.keep = 'best' and train.patience need train.eval_every > 0",
        )
        require(
            self.compile is not True or not self.activation_checkpointing,
            "train.compile = true does not go with train.activation_checkpointing",
        )
        require(
            self.lora_rank == 0 or bool(self.lora_targets),
            "train.lora_rank needs train.lora_targets",
        )


@dataclass(frozen=True)
class DecodingConfig:
    """How recommendations are made. All of it can be changed after training."""

    beam_width: int = setting(50, 1, 65_536, is_runtime=True)  # at least eval.max_k
    # the codes that a softmax runs over
    normalize: Literal["codebook", "children"] = setting("codebook", is_runtime=True)
    # recommend no item of the history; auto: unless the training histories repeat items
    exclude_history: Literal[True, False, "auto"] = setting("auto", is_runtime=True)
    # item-item evidence beside the LLM; auto: weighed on validation
    evidence: Literal["none", "auto"] = setting("none", is_runtime=True)
    batch_size: int = setting(128, 1, 65_536, is_runtime=True)  # histories at once
    # auto: what decodes faster here
    dtype: Literal["auto", "float32", "bfloat16"] = setting("auto", is_runtime=True)
    # for the contexts of earlier requests; 0 keeps none
    prefix_cache_mib: float = setting(256.0, 0.0, 1e8, is_runtime=True)

    def __post_init__(self) -> None:
        """Checks the ranges."""
        check_ranges(self, "decoding")


@dataclass(frozen=True)
class EvalConfig:
    """How a run is measured: in float32, so that figures do not depend on the machine."""

    max_k: int = setting(20, 1, 10_000, is_runtime=True)  # length of each ranking

    def __post_init__(self) -> None:
        """Checks the ranges."""
        check_ranges(self, "eval")
