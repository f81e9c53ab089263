"""From a meta-training run to a theta that ships: its folder, with card, README and check run.

python experiments/recipe/ship.py OUT/runs/LINE_SEED --name lopt-r-1 --local_learning_rate 0.1 \\
    --machine "2 cores of an AMD EPYC" [--limit "..."] [--tested DIR/results.json]

The same run and flags give the same files, on the same machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import pathlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from comm_lopt.atomic import replacing
from comm_lopt.cli.exit_codes import run_command
from comm_lopt.meta_train.trained_on import families_of
from comm_lopt.pretrained import folders
from comm_lopt.pretrained.card import (
    Card,
    CheckRun,
    Recommended,
    Selection,
    TestedTask,
    Training,
    card_text,
)
from comm_lopt.pretrained.check_run import check_losses
from comm_lopt.pretrained.model_card import readme
from comm_lopt.theta import FILE_NAME, LICENCE, load_theta, theta_file

__all__ = ["main"]

_FOLDER = pathlib.Path(folders.__file__).resolve().parent
_HOW = (
    "One meta-trained theta of several, by its losses on the selection tasks of "
    "experiments/recipe/, which are neither trained nor tested on."
)
_TARGET = "final_loss_of_"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=pathlib.Path, help="the meta-training's own folder")
    parser.add_argument("--name", required=True, help="rule and version, such as lopt-r-1")
    parser.add_argument("--local_learning_rate", type=float, required=True, metavar="X")
    parser.add_argument(
        "--steps_power", type=float, default=0.0, metavar="X", help="γ is times H^X (default: 0)"
    )
    parser.add_argument(
        "--workers_power", type=float, default=0.0, metavar="X", help="γ is times K^X (default: 0)"
    )
    parser.add_argument("--machine", required=True, metavar="TEXT", help="what it ran on")
    parser.add_argument(
        "--best_theta", action="store_true", help="best_theta/ of the run, in place of theta/"
    )
    parser.add_argument(
        "--unfinished", action="store_true", help="the run may have been stopped before its end"
    )
    parser.add_argument(
        "--command", metavar="TEXT", help="what was run (default: experiments/recipe/run.py)"
    )
    parser.add_argument("--schedule", default="none", metavar="TEXT", help="outside the rule")
    parser.add_argument("--selected", default=_HOW, metavar="TEXT", help="how it was chosen")
    parser.add_argument(
        "--recipe_results",
        type=pathlib.Path,
        metavar="FILE",
        help="results.json of the recipe, with the losses on selection tasks (default: that of "
        "the folder of the run, if there is one)",
    )
    parser.add_argument(
        "--tested",
        type=pathlib.Path,
        metavar="FILE",
        help="results.json of experiments/generalisation/, in which this theta is",
    )
    parser.add_argument(
        "--limit", action="append", default=[], metavar="SENTENCE", help="repeatable"
    )
    parser.add_argument(
        "--out_dir", type=pathlib.Path, default=_FOLDER, help=f"gets NAME/ (default: {_FOLDER})"
    )
    flags = parser.parse_args(arguments)
    return run_command("ship", lambda: _ship(flags))


def _ship(flags: argparse.Namespace) -> int:
    theta = flags.run / ("best_theta" if flags.best_theta else "theta") / FILE_NAME
    card = _card(flags, theta)
    folder: pathlib.Path = flags.out_dir / card.name
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(theta, folder / FILE_NAME)
    shutil.copyfile(flags.run / "config.gin", folder / folders.CONFIG_FILE)
    for name, text in ((folders.README_FILE, readme(card)), (folders.CARD_FILE, card_text(card))):
        with replacing(folder / name) as path:
            path.write_text(text, encoding="utf-8")
    print(f"{folder}: {card.rule}, {card.num_weights} weights, {card.sha256}")
    return 0


def _card(flags: argparse.Namespace, path: pathlib.Path) -> Card:
    learned_opt, theta, trained_on = load_theta(path)
    digest = theta_file(path)["sha256"]
    step_size = getattr(learned_opt, "step_size", None)
    (local_optimizer,) = {f["local_optimizer"] for f in families_of(trained_on)}
    recommended = Recommended(
        flags.local_learning_rate,
        getattr(learned_opt, "steering", None) is not None,
        None if step_size is None else repr(step_size),
        flags.schedule,
        local_optimizer,
        flags.steps_power,
        flags.workers_power,
    )
    training, selection = _training(flags, trained_on), _selection(flags)
    tested = tuple(_tested(flags.tested, digest, recommended))
    num_workers = getattr(learned_opt, "num_workers", None) or 2
    check = CheckRun(
        num_workers=num_workers,
        num_local_steps=2,
        num_rounds=8,
        batch_size=8,
        hidden_size=8,
        seed=0,
        local_learning_rate=recommended.rate(2, num_workers),
        losses=(),
        local_optimizer=local_optimizer,
    )
    losses = tuple(check_losses(learned_opt, theta, check))
    if not all(map(math.isfinite, losses)):
        raise ValueError(f"the check run diverges ({losses}); choose another local learning rate.")
    return Card(
        name=flags.name,
        rule=type(learned_opt).__name__,
        num_weights=sum(leaf.size for leaf in jax.tree.leaves(theta)),
        licence=LICENCE,
        sha256=digest,
        training=training,
        selection=selection,
        recommended=recommended,
        tested=tested,
        limits=tuple(flags.limit),
        check=dataclasses.replace(check, losses=losses),
    )


def _training(flags: argparse.Namespace, trained_on: Mapping[str, Any]) -> Training:
    """What the run's newest checkpoint and theta's header say.

    Raises:
      ValueError: the run has not ended.
    """
    saved = sorted(flags.run.glob("checkpoints/[0-9]*/state/info.json"), key=_meta_step)
    if not saved:
        raise FileNotFoundError(f"no checkpoint in {flags.run}; pass a meta-training's folder.")
    info = json.loads(saved[-1].read_text(encoding="utf-8"))["info"]
    done, asked = info["progress"]["meta_step"], info["num_meta_steps"]
    if done != asked and not flags.unfinished:
        raise ValueError(
            f"{flags.run} has done {done} of {asked} meta-steps; let it end first, or pass "
            "--unfinished."
        )
    line, _, seed = flags.run.name.rpartition("_")
    default = f"python experiments/recipe/run.py --out_dir OUT --lines {line} --seeds {seed}"
    return Training(
        tasks=tuple(map(_told, families_of(trained_on))),
        meta_steps=trained_on["meta_steps"],
        meta_seed=int(info["settings"]["seed"]),
        seconds=info["progress"]["seconds"],
        command=flags.command or default,
        machine=flags.machine,
        versions=info["versions"],
    )


def _meta_step(path: pathlib.Path) -> int:
    return int(path.parents[1].name)


def _told(family: Mapping[str, Any]) -> str:
    rate = family.get("local_learning_rate")
    gamma = f"drawn from {rate[0]:g} to {rate[1]:g}" if isinstance(rate, list) else rate
    return (
        f"{family['task']} (K = {family['num_workers']}, H = {family['num_local_steps']}, "
        f"{family['local_optimizer']}, γ {gamma})"
    )


def _selection(flags: argparse.Namespace) -> Selection:
    """The ratios of the run's line and seed in the recipe's results, where they are."""
    path = flags.recipe_results or flags.run.parents[1] / "results.json"
    if flags.recipe_results is None and not path.exists():
        return Selection(flags.selected, (), {})
    results = json.loads(path.read_text(encoding="utf-8"))
    line, _, seed = flags.run.name.rpartition("_")
    made = results["lines"].get(line, {})
    found = made.get("thetas", {}).get(seed)
    if found is None:
        raise ValueError(f"{path} has no line {line} with meta-seed {seed}.")
    ratios = {task: tuple(of["train"]) for task, of in found["ratios"].items()}
    return Selection(flags.selected, tuple(made["rates"]), ratios)


def _tested(path: pathlib.Path | None, digest: str, recommended: Recommended) -> list[TestedTask]:
    """A row for each test task on which this theta ran with the recommended γ.

    Raises:
      ValueError: there is none.
    """
    if path is None:
        return []
    rows = []
    for problem in json.loads(path.read_text(encoding="utf-8"))["problems"].values():
        results = problem["results"]
        methods, sizes = results["methods"], results["problem"]
        num_rounds = sizes["num_rounds"]
        rate = recommended.rate(sizes["num_local_steps"], sizes["num_workers"])
        own = [entry for entry in methods.values() if _is_of(entry, digest, rate)]
        if own:
            entry = own[0]
            rounds = {n.removeprefix(_TARGET): r for n, r in entry["rounds_to"].items()}
            others = {label: _loss(e) for label, e in methods.items() if not e["learned"]}
            rows.append(
                TestedTask(
                    f"{problem['task']}. {problem['title']}",
                    num_rounds,
                    len(results["seeds"]),
                    _loss(entry),
                    entry["final_train_loss_std"],
                    entry["heldout"]["loss"],
                    others,
                    {name: r and r / num_rounds for name, r in rounds.items()},
                )
            )
    if not rows:
        raise ValueError(f"{path} has no run of the theta {digest} with its recommended γ.")
    return rows


def _is_of(entry: Mapping[str, Any], digest: str, rate: float) -> bool:
    same = (entry["theta"] or {}).get("sha256") == digest
    return same and entry["hparams"].get("local_learning_rate") == rate


def _loss(entry: Mapping[str, Any]) -> float | None:
    return None if entry["diverged_seeds"] else entry["final_train_loss"]


if __name__ == "__main__":
    sys.exit(main())
