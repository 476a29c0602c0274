"""The names that functions and the command line accept (units, hooks, metrics, scores), each set as one `Literal`.

A type checker and the command line read the `Literal`; a function that is called without either refuses an unknown
name with an `InputError` that lists `get_args` of it.
"""

from typing import Literal

Backend = Literal["bridge", "hooked"]

# Patching
Metric = Literal["logit_ratio", "logit_diff", "prob"]
Estimator = Literal["ratio_of_means", "mean_of_ratios"]
Hook = Literal["q", "k", "v", "z", "pattern", "attn_out", "mlp_out", "resid_pre", "resid_post"]
HeadUnit = Literal["head", "kv_group"]
Unit = Literal["head", "kv_group", "layer"]
HookUnit = Literal["head", "kv_group", "kv_head", "layer"]
Positions = Literal["all", "last", "each"]
Integrate = Literal["inputs", "layers"]

# Tuning
WholeModel = Literal["attention", "all"]
LossOn = Literal["reply", "dialogue"]

# Prompts
FactSplit = Literal["train", "selection", "test"]

# Inactive heads
HeadScoreName = Literal[
    "AWFT",
    "AWFT_LN",
    "AEQD",
    "AEQD_LN",
    "FTVVN",
    "FTVVN_LN",
    "AVVN",
    "AVVN_LN",
    "LTHON",
    "LTHON_LN",
    "LTHON_HN",
    "AHON",
    "AHON_LN",
    "FHON",
    "FHON_LN",
]
Inactive = Literal["above", "below"]
ScoreAnswers = Literal["letter", "text"]

# LeaF
TokenScoreName = Literal[
    "gradient_difference",
    "raw_gradient_difference",
    "student_gradient",
    "teacher_gradient",
    "gradient_x_input",
    "integrated_gradients",
    "occlusion",
    "attention_difference",
    "student_attention",
    "perplexity",
    "random",
]
Confounding = Literal["low", "high"]
Reading = Literal["quantile", "absolute"]
PruneBy = Literal["span", "collective"]
Alignment = Literal["ids", "characters"]

# Extreme tokens
Sinks = Literal["first", "extreme"]
Correction = Literal["max", "holm"]
Penalty = Literal["sink", "peak"]
RemedyKind = Literal["none", "inference", "tuning", "retraining"]
ScalePer = Literal["token", "tensor", "channel"]
WeightScalePer = Literal["channel", "tensor"]

# The Bigram-Backcopy task
ToyKind = Literal["backcopy", "skip", "bietti", "markov"]
ToyAttention = Literal["softmax", "relu"]
ToyStart = Literal["here", "authors"]
Optimizer = Literal["adamw", "sgd"]
Precision = Literal["float32", "tf32", "bfloat16"]
Scale = Literal["small", "paper"]

# Questions and dialogues
Split = Literal["train", "test"]
AnswerForm = Literal["letter", "text", "number", "yes_no"]
ReplyMatch = Literal["letter", "number", "yes_no", "gsm8k_strict", "gsm8k_flexible"]
ExampleMatch = Literal["letter", "number", "yes_no", "gsm8k_strict", "gsm8k_flexible", "text"]
DialogueForm = Literal["are_you_sure", "feedback", "answer", "opinion", "pushback", "truthfulqa", "truthfulqa_ab"]
Stance = Literal["gives_in", "stands_firm", "neither"]
FirstAnswer = Literal["own", "right", "wrong"]
Normalise = Literal["none", "characters", "bytes", "tokens"]

# Figures
FigureFormat = Literal["html", "json", "png", "pdf"]
FigureWidth = Literal["column", "page"]
FigureName = Literal[
    "sycophancy/contribution-heatmap",
    "sycophancy/layer-sums",
    "sycophancy/kurtosis-table",
    "sycophancy/head-vs-group",
    "sycophancy/agreement",
    "sycophancy/tradeoff-table",
    "sycophancy/ratio-sweep",
    "sycophancy/before-after-patching",
    "sycophancy/ability-loss",
    "active-dormant/extreme-tokens",
    "active-dormant/sinks",
    "active-dormant/peak",
    "active-dormant/training",
    "active-dormant/domains",
    "active-dormant/waking-head",
    "active-dormant/remedies",
    "active-dormant/peak-sources",
    "active-dormant/real-heads",
    "active-dormant/real-rounding",
    "active-dormant/one-layer",
    "active-dormant/dynamics",
    "active-dormant/optimizer-and-attention",
    "active-dormant/architectures",
    "active-dormant/variants",
    "active-dormant/theory",
    "inactive-heads/accuracy-curves",
    "inactive-heads/auc-ranks",
    "inactive-heads/a-tenth-zeroed",
    "inactive-heads/frequency",
    "inactive-heads/domains",
    "inactive-heads/training",
    "inactive-heads/score-overlap",
    "inactive-heads/threshold-transfer",
    "inactive-heads/distances",
    "leaf/pruning-gain",
    "leaf/masking-strategies",
    "leaf/response-level",
    "leaf/threshold-sensitivity",
    "leaf/case-study",
    "leaf/objectives",
    "leaf/published",
    "leaf/word-problems",
    "leaf/real-model",
    "leaf/real-tokens",
]
