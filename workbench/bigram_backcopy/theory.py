"""Gradient flow of the simplified model, and the theorems' predictions for it.

1. Query v attends to `<s>` with logit alpha_v and to W context tokens with logit 0. The context's values add z_k to
   the logits of the next token k, the value of `<s>` is beta, so that query v predicts

       q_v = softmax_k( log p_vk + (exp(alpha_v) beta_k + z_k) / (exp(alpha_v) + W) ),

   and the loss is sum_v pi_v KL(p_v || q_v): every query would be right without any attention.
2. `flow` follows the negative gradient in log time with an ODE solver: alpha alone (beta = 0), beta alone (alpha
   fixed), or both.
3. Sinks: with beta constant, alpha_v(t) = 1/2 log t + r_v with r_v -> 1/2 log(2 pi_v Var_{p_v}(z)) (`offsets`).
   Drains: with alpha fixed, beta -> (mean beta_0 + exp(-alpha) mean z) 1 - exp(-alpha) z (`drained`). Both: the
   alphas meet in one value, and beta ends in the drained form.
4. Peaks: the loss that is left pushes the norm m of the residual at `<s>` with gradient log(t) / (m^3 t). SGD moves
   it like sqrt(log t), Adam, which divides by the gradient's size, about linearly (`peak`).

The flows take under a second each.
"""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy.integrate import solve_ivp
from scipy.special import rel_entr

from workbench.bigram_backcopy.task import Task
from workbench.errors import InputError
from workbench.runs.results import provenance


@dataclass(frozen=True, eq=False)
class Problem:
    """Queries, keys and the context of the simplified model.

    Attributes:
        queries: names of the queries.
        pi: weight of each query `[query]`.
        p: the right next-token distribution of each query `[query, key]`.
        z: what the context's values add to the logits, times W `[key]`.
        W: number of context tokens.
    """

    queries: tuple[str, ...]
    pi: np.ndarray
    p: np.ndarray
    z: np.ndarray
    W: float

    @property
    def offsets(self) -> np.ndarray:
        """The limit of alpha_v(t) - 1/2 log t, per query."""
        mean = self.p @ self.z
        return 0.5 * np.log(2 * self.pi * (self.p @ self.z**2 - mean**2))

    def drained(self, alpha: float, beta: np.ndarray) -> np.ndarray:
        """Where beta goes from a start `[key]`, of which only the mean matters, if all sink logits stay at alpha."""
        return beta.mean() + np.exp(-alpha) * (self.z.mean() - self.z)

    def loss(self, alpha: np.ndarray, beta: np.ndarray) -> float:
        """The loss at sink logits alpha `[query]` and the sink's value beta `[key]`."""
        return float(self.pi @ rel_entr(self.p, self._predicted(alpha, beta)).sum(1))

    def gradient(self, alpha: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The gradient of the loss in alpha `[query]` and beta `[key]`."""
        excess = self._predicted(alpha, beta) - self.p
        pull = np.exp(alpha)
        in_alpha = self.pi * pull / (pull + self.W) ** 2 * (excess @ (self.W * beta - self.z))
        return in_alpha, (self.pi * pull / (pull + self.W)) @ excess

    def _predicted(self, alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
        pull = np.exp(alpha)[:, None]
        push = (pull * beta + self.z) / (pull + self.W)
        weights = self.p * np.exp(push - push.max(1, keepdims=True))
        return weights / weights.sum(1, keepdims=True)


def problem(task: Task, *, queries: int = 5, keys: int = 12, context: int = 64, value: float = 4.0) -> Problem:
    """The simplified model on the most frequent characters of a task.

    Args:
        task: gives frequencies, transitions and triggers.
        queries: how many of the most frequent characters that are no trigger become queries.
        keys: how many of the most frequent characters become keys.
        context: W, the number of context tokens, shared among the keys by frequency.
        value: xi, by how much a token's value raises its own logit.

    Raises:
        InputError: more queries or keys than there are characters.
    """
    order = np.argsort(-task.unigram[: task.n_characters])[:keys]
    asked = [int(i) for i in order if i not in task.trigger_ids][:queries]
    if len(asked) < queries or len(order) < keys:
        raise InputError(
            f"{queries} queries and {keys} keys, but {task!r} has {len(asked)} characters among its {len(order)} most "
            "frequent ones that are no trigger. Ask for fewer queries or more keys."
        )
    share = task.unigram[order] / task.unigram[order].sum()
    p = task.transition[asked][:, order] + 1e-6
    pi = task.unigram[asked] / task.unigram[asked].sum()
    names = tuple(task.symbols[i] for i in asked)
    return Problem(names, pi, p / p.sum(1, keepdims=True), context * share * value, float(context))


def flow(
    given: Problem,
    free: str = "alpha",
    *,
    alpha: float = 0.0,
    beta: np.ndarray | None = None,
    until: float = 1e9,
    points: int = 200,
) -> xr.Dataset:
    """Follow the gradient from t = 0.

    Args:
        given: the problem.
        free: what moves: "alpha", "beta" or "both".
        alpha: sink logit of every query at the start.
        beta: value of the sink at the start `[key]`; None takes zero.
        until: the last time.
        points: how many times to report, evenly spaced in log(1 + t).

    Returns:
        Dataset with `alpha(time, query)`, `beta(time, key)`, `loss(time)`, `offset(query)` (the predicted limit of
        alpha - 1/2 log t) and `drained(key)` (the predicted limit of beta under the last mean alpha).

    Raises:
        InputError: an unknown `free`, or a beta of another length.
    """
    if free not in ("alpha", "beta", "both"):
        raise InputError(f"free={free!r}: what moves is 'alpha', 'beta' or 'both'.")
    n, keys = len(given.pi), len(given.z)
    began = np.zeros(keys) if beta is None else np.asarray(beta, float)
    if began.shape != (keys,):
        raise InputError(f"beta has shape {began.shape}, but there are {keys} keys; give one number for each.")

    def velocity(s: float, y: np.ndarray) -> np.ndarray:
        in_alpha, in_beta = given.gradient(y[:n], y[n:])
        in_alpha = in_alpha * (free != "beta")
        return -np.exp(s) * np.concatenate([in_alpha, in_beta * (free != "alpha")])

    s = np.linspace(0.0, np.log1p(until), points)
    start = np.concatenate([np.full(n, float(alpha)), began])
    solved = solve_ivp(velocity, (0.0, s[-1]), start, method="LSODA", t_eval=s, rtol=1e-10, atol=1e-13)
    if not solved.success:
        raise InputError(f"The gradient flow could not be followed ({solved.message}). Take a smaller `until`.")
    alphas, betas = solved.y[:n].T, solved.y[n:].T
    return xr.Dataset(
        {
            "alpha": (("time", "query"), alphas),
            "beta": (("time", "key"), betas),
            "loss": ("time", [given.loss(a, b) for a, b in zip(alphas, betas, strict=True)]),
            "offset": ("query", given.offsets),
            "drained": ("key", given.drained(float(alphas[-1].mean()), began)),
        },
        coords={"time": np.expm1(s), "query": list(given.queries), "key": np.arange(keys)},
        attrs=provenance(free=free, W=given.W),
    )


def peak(
    steps: int = 10_000, *, start: float = 10.0, lr: float = 0.3, betas: tuple[float, float] = (0.9, 0.999)
) -> xr.Dataset:
    """Growth of the residual norm at `<s>` from `start` under the gradient log(t) / (m^3 t), by Adam and by SGD.

    Returns:
        Dataset with `norm(optimizer, step)` for "adam" and "sgd", and `sgd_closed_form(step)`, the solution
        (start^4 + 2 lr log(t)^2)^(1/4) of SGD's gradient flow.
    """
    adam, sgd = np.empty(steps + 1), np.empty(steps + 1)
    adam[0] = sgd[0] = start
    first = second = 0.0
    for t in range(1, steps + 1):
        gradient = -np.log(t) / (adam[t - 1] ** 3 * t)
        first = betas[0] * first + (1 - betas[0]) * gradient
        second = betas[1] * second + (1 - betas[1]) * gradient**2
        size = np.sqrt(second / (1 - betas[1] ** t)) + 1e-8
        adam[t] = adam[t - 1] - lr * first / (1 - betas[0] ** t) / size
        sgd[t] = sgd[t - 1] + lr * np.log(t) / (sgd[t - 1] ** 3 * t)
    t = np.maximum(1, np.arange(steps + 1))
    return xr.Dataset(
        {
            "norm": (("optimizer", "step"), np.stack([adam, sgd])),
            "sgd_closed_form": ("step", (start**4 + 2 * lr * np.log(t) ** 2) ** 0.25),
        },
        coords={"optimizer": ["adam", "sgd"], "step": np.arange(steps + 1)},
        attrs=provenance(lr=lr, betas=list(betas)),
    )
