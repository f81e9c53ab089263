"""A card for people: README.md in the form of the Hugging Face hub, made of card.json alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from comm_lopt.optimizers.registry import OPTIMIZERS
from comm_lopt.pretrained.card import Card, TestedTask
from comm_lopt.report import markdown_rows

__all__ = ["body", "readme", "readme_without_card"]

_FRONT_MATTER = """\
---
license: {licence}
library_name: comm-lopt
tags:
- learned-optimizer
- learned-optimization
- local-sgd
- jax
- optax
- {rule}
---

"""

_USE = """\
```python
import comm_lopt

pretrained = comm_lopt.load("{name}")
outer = pretrained.transformation(num_rounds=1000)  # an optax transformation of Δ, for any loop
inner = comm_lopt.{local}({rate:g})  # or any optax optimizer of this kind
every_step = comm_lopt.every_h_steps(inner, outer, {steps})  # or one worker: an ordinary optimizer
```"""

_USE_OF_DELTAS = """\
```python
import comm_lopt

pretrained = comm_lopt.load("{name}")
outer = pretrained.transformation()  # an optax transformation, for any loop of rounds
updates, state = outer.update(delta, state, params, worker_deltas=deltas)  # [K, ...] of each
```"""

_STEPS_IN_USE = 16
_WORKERS_IN_USE = 8

_ON_COMMAND_LINE = """\
```
comm-lopt meta-test --config_file tasks/digits_mlp.gin --theta {name} \\
    --optimizer LocalSGD --out_dir runs/{folder}
```"""


def readme(card: Card, loaded_as: str | None = None) -> str:
    """README.md of a card, with the front matter that the hub reads.

    Args:
      card: what is known of a theta.
      loaded_as: what to give to `comm_lopt.load`, if not the card's name.
    """
    front = _FRONT_MATTER.format(licence=card.licence.lower(), rule=card.rule)
    return front + body(card, loaded_as)


def readme_without_card(header: Mapping[str, Any], sha256: str, loaded_as: str) -> str:
    """README.md of a theta of which no more is known than what its header says.

    Args:
      header: of theta.
      sha256: of its bytes.
      loaded_as: what to give to `comm_lopt.load`.
    """
    rule, licence = header["class"], header["licence"]
    parts = [
        f"# {loaded_as.rpartition('/')[2]}",
        f"A learned optimizer for the global step of local SGD: {rule} of comm_lopt. Licence: "
        f"{licence}. SHA-256 of theta.safetensors: {sha256}.",
        "## Use",
        _use(rule, loaded_as, 0.1, "local_sgd"),
        "How it was meta-trained is in config.json, as `trained_on`. It was not tested yet.",
    ]
    front = _FRONT_MATTER.format(licence=licence.lower(), rule=rule)
    return front + "\n\n".join(parts) + "\n"


def _use(rule: str, name: str, rate: float, local: str) -> str:
    entry = OPTIMIZERS.get(rule)
    sees_deltas = entry is not None and entry.sends == "worker_deltas"
    use = _USE_OF_DELTAS if sees_deltas else _USE
    return use.format(name=name, rate=rate, local=local, steps=_STEPS_IN_USE)


def body(card: Card, loaded_as: str | None = None) -> str:
    """The card as Markdown."""
    name = loaded_as or card.name
    parts = [
        f"# {card.name}",
        f"A learned optimizer for the global step of local SGD: {card.rule} of comm_lopt, with "
        f"{card.num_weights:,} meta-trained weights. Licence: {card.licence}. SHA-256 of "
        f"theta.safetensors: {card.sha256}.",
        "## Use",
        _use(
            card.rule,
            name,
            card.recommended.rate(_STEPS_IN_USE, _WORKERS_IN_USE),
            card.recommended.local_optimizer,
        ),
        _ON_COMMAND_LINE.format(name=name, folder=card.name),
        _listed(_recommended(card)),
        "## Meta-training",
        _listed(_training(card)),
        "## Selection",
        *_selection(card),
        "## Tests",
        *(_tested(card.tested) if card.tested else ["Not tested yet."]),
        "## Limits",
        _listed(card.limits or ["None is known, which does not mean that there are none."]),
        "## A run to check by",
        _check(card),
    ]
    return "\n\n".join(parts) + "\n"


def _recommended(card: Card) -> list[str]:
    chosen = card.recommended
    rate = f"local optimizer {chosen.local_optimizer}, γ: {chosen.formula()}"
    rate += ", of the first round; the rule steers it from there" if chosen.steered else ""
    published = "none; the rule's steps have the size that they were meta-trained with"
    # Steered rules without α step by Δ and its momenta as they are.
    alpha = chosen.alpha or (None if chosen.steered else published)
    outside = f"schedule and weight decay outside the rule: {chosen.schedule}"
    return [rate, *([f"α: {alpha}"] if alpha else []), outside]


def _training(card: Card) -> list[str]:
    training = card.training
    versions = ", ".join(f"{name} {version}" for name, version in training.versions.items())
    return [
        *(f"tasks: {task}" for task in training.tasks),
        f"{training.meta_steps:,} meta-steps, meta-seed {training.meta_seed}, in "
        f"{training.seconds:.0f} s on {training.machine}",
        f"command: `{training.command}`",
        "every setting: config.gin",
        f"versions: {versions}",
    ]


def _selection(card: Card) -> list[str]:
    selection = card.selection
    if not selection.ratios:
        return [selection.how]
    rates = [f"γ = {rate:g}" for rate in selection.rates]
    rows = [["selection task: final training loss over that of tuned SlowMo", *rates]]
    rows += [[task, *(f"{x:.3f}" for x in ratios)] for task, ratios in selection.ratios.items()]
    return [selection.how, markdown_rows(rows)]


def _tested(tested: Sequence[TestedTask]) -> list[str]:
    baselines = list(dict.fromkeys(name for row in tested for name in row.baselines))
    reached = list(dict.fromkeys(name for row in tested for name in row.shares))
    rows = [["task", "T", "seeds", "this theta", *baselines, "held-out loss", " / ".join(reached)]]
    bold = set()
    for number, row in enumerate(tested, start=1):
        own = _loss(row.loss)
        own += f" ± {row.loss_std:.2g}" if row.loss is not None and row.loss_std is not None else ""
        others = [_loss(row.baselines[name]) if name in row.baselines else "" for name in baselines]
        shares = " / ".join(_share(row.shares, name) for name in reached)
        counts = [f"{row.num_rounds:,}", str(row.num_seeds)]
        rows.append([row.task, *counts, own, *others, _loss(row.heldout_loss), shares])
        losses = [row.loss, *(row.baselines.get(name) for name in baselines)]
        finite = {loss: column for column, loss in enumerate(losses, start=3) if loss is not None}
        if finite:
            bold.add((number, finite[min(finite)]))
    return [
        "Final training loss on tasks that were neither trained nor selected on, and that of "
        "baselines which were tuned on each task, with other seeds; **bold** is the lowest. The "
        "last column has the rounds to a baseline's final loss, as a share of T.",
        markdown_rows(rows, bold),
    ]


def _loss(loss: float | None) -> str:
    return "diverged" if loss is None else f"{loss:.4g}"


def _share(shares: Mapping[str, float | None], name: str) -> str:
    share = shares.get(name)
    return "-" if share is None else f"{share:.2f}"


def _check(card: Card) -> str:
    run = card.check
    losses = ", ".join(f"{loss:.6g}" for loss in run.losses)
    return (
        f"MLP 64-{run.hidden_size}-10 on scikit-learn's digits, K = {run.num_workers}, H = "
        f"{run.num_local_steps}, B = {run.batch_size}, {run.local_optimizer} with γ = "
        f"{run.local_learning_rate:g}, "
        f"seed {run.seed}; training loss of rounds 1 to {run.num_rounds}: {losses}. "
        "`comm_lopt.pretrained.check_run.check_losses` repeats it."
    )


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
