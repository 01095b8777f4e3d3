"""Sentences on a run's choices: what is good, what to look at, what is bad, and what to change.

They are rules of thumb; docs/report.md lists their limits.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from store_engine.config import Config
from store_engine.report.codebook import Codebook, level_name
from store_engine.report.curves import Entries, series, stages
from store_engine.report.results import best_baseline, figure_name
from store_engine.training.log import FLAT, VALIDATION, last_rise

Kind = Literal["good", "look", "bad"]
_UNUSED, _UNEVEN = 0.8, 0.4  # share of codes in use; effective codes as a share of those in use
_REPEATS = 0.5  # of a level, explained by another
_ROOMY = 10  # SIDs per item that the codebook could name
_FALLING = 0.02  # of the loss, within the last tenth of the steps


@dataclass(frozen=True)
class Verdict:
    """One sentence.

    Args:
        kind: good, look (have a look at it) or bad.
        about: The keys of the config that it is about.
        text: What is so, and what to do.
    """

    kind: Kind
    about: str
    text: str


def on_codes(codes: Codebook, config: Config) -> list[Verdict]:
    """Judges num_codes and codebook_size by use, collisions, redundancy and neighbours."""
    said = [_on_codebook_size(codes)]
    said.append(_on_clusters(codes) if codes.last_is_item else _on_collisions(codes, config))
    levels = np.array(codes.report["redundancy"]) - np.eye(codes.described)
    if codes.described > 1 and levels.max() > _REPEATS:
        level, other = np.unravel_index(levels.argmax(), levels.shape)
        text = (
            f"The code of level {level_name(int(other))} says {levels.max():.0%} of level "
            f"{level_name(int(level))}'s: one of them adds little. Fewer codes, another quantizer, "
            f"or a higher tokenizer.contrastive_weight."
        )
        said.append(Verdict("look", "tokenizer.num_codes", text))
    near = codes.report.get("neighbours_share_prefix")
    if near and codes.report["prefix_by_chance"]:
        said.append(_on_neighbours(near[0], codes.report["prefix_by_chance"][0]))
    return said


def on_training(log: Entries, config: Config) -> list[Verdict]:
    """Judges the epochs of both stages by the losses and the validation."""
    of = stages(log)
    said = []
    if "tokenizer" in of:
        said.append(_on_tokenizer_epochs(of["tokenizer"]))
    if "recommender" in of:
        said.append(_on_epochs(of["recommender"], config))
    return [verdict for verdict in said if verdict is not None]


def on_result(metrics: dict[str, Any], config: Config) -> list[Verdict]:
    """Judges the result by the baselines, and the search by what it left out."""
    name = figure_name(metrics)
    value, error = metrics["metrics"][name], metrics["standard_errors"].get(name, 0.0)
    best, floor, floor_error = best_baseline(metrics, name)
    noise = 2 * (error**2 + floor_error**2) ** 0.5
    gap = value - floor
    figures = f"{name.capitalize()} {value:.4f} against {floor:.4f} of {best}"
    if gap > noise:
        text = f"{figures}: better by more than twice the standard error ({noise:.4f})."
        said = [Verdict("good", "the result", text)]
    elif gap > -noise:
        text = f"{figures}: no difference beyond noise (± {noise:.4f}). More data or tuning."
        said = [Verdict("look", "the result", text)]
    else:
        text = (
            f"{figures}: worse than a count. Something is wrong: too few epochs, too little data, "
            f"or text that does not describe the items."
        )
        said = [Verdict("bad", "the result", text)]
    seen = metrics["share_of_targets_seen"]
    if metrics["primary"] == "seen_left_out" and seen > 0.02:
        text = (
            f"{seen:.1%} of the targets stand in the user's history, and seen items are left out: "
            f"each is a miss. Where people buy again, decoding.exclude_history = false."
        )
        said.append(Verdict("look", "decoding.exclude_history", text))
    if metrics["missing_items"] and config.eval.max_k <= metrics["num_items"]:
        text = f"{metrics['missing_items']:,} places of rankings stayed empty: few items compete."
        said.append(Verdict("look", "decoding.beam_width", text))
    return said


def _on_codebook_size(codes: Codebook) -> Verdict:
    levels = codes.report["levels"][: codes.described]
    about = "tokenizer.codebook_size"
    for number, level in enumerate(levels):
        name, size, used = level_name(number), level["codebook_size"], level["num_used"]
        if level["usage"] < _UNUSED:
            text = (
                f"Level {name} uses {used} of {size} codes: the codebook is larger than the items "
                f"differ. About {_power_of_two(used)} would do."
            )
            return Verdict("bad" if level["usage"] < _UNUSED / 2 else "look", about, text)
        if level["perplexity"] < _UNEVEN * used:
            text = (
                f"Level {name} uses {used} codes as unevenly as {level['perplexity']:.0f} equal "
                f"ones would be: a few codes hold most items."
            )
            return Verdict("look", about, text)
    least = min(level["usage"] for level in levels)
    share = "all" if least == 1 else f"at least {least:.0%}"
    return Verdict("good", about, f"Of every level {share} codes are in use, evenly enough.")


def _on_collisions(codes: Codebook, config: Config) -> Verdict:
    report = codes.report
    num_items, groups = report["num_items"], report["num_collision_groups"]
    sizes = [level["codebook_size"] for level in report["levels"][: codes.described]]
    room = float(np.prod(np.array(sizes, dtype=np.float64))) / num_items
    about = "tokenizer.num_codes"
    found = f"{groups:,} groups of items share their codes, the largest has"
    found += f" {report['largest_group']:,}"
    if groups == 0:
        return Verdict("good", about, "No two items share their codes.")
    if room < _ROOMY or groups > 0.1 * num_items:
        text = f"{found}; the codes could name {room:,.1f} SIDs per item. One code more, or a"
        text += " larger codebook."
        return Verdict("bad" if groups > 0.2 * num_items else "look", about, text)
    kind: Kind = "look" if report["largest_group"] > max(20, 0.01 * num_items) else "good"
    text = f"{found}; tokenizer.collisions = {config.tokenizer.collisions!r} tells them apart."
    if kind == "look":
        text += " A group as large as that is often items without text: look at the data."
    return Verdict(kind, about, text)


def _on_clusters(codes: Codebook) -> Verdict:
    report = codes.report
    clusters = int(np.prod([level["num_used"] for level in report["levels"][: codes.described]]))
    text = (
        f"Items are the last code, in clusters of {report['largest_group']:,} at most "
        f"({report['num_items']:,} items, {clusters:,} clusters): no item shares its SID."
    )
    if report["largest_group"] <= 2048:
        return Verdict("good", "tokenizer.num_codes", text)
    text += " Clusters this large make the last softmax slow: one level more."
    return Verdict("look", "tokenizer.num_codes", text)


def _on_neighbours(near: float, chance: float) -> Verdict:
    text = f"{near:.0%} of an item's 10 nearest share its first code, {chance:.1%} of any two items"
    if near > 3 * chance and near > 0.1:
        return Verdict("good", "the first code", f"{text}: it says what an item is like.")
    return Verdict("look", "the first code", f"{text}: it says little of what an item is like.")


def _on_tokenizer_epochs(entries: Entries) -> Verdict | None:
    _, losses = series(entries, "loss")
    tenth = len(losses) // 10
    if tenth < 2:
        return None
    before, last = np.mean(losses[-2 * tenth : -tenth]), np.mean(losses[-tenth:])
    falling = float(1 - last / before) if before > 0 else 0.0
    about = "tokenizer.epochs"
    if falling > _FALLING:
        text = f"The loss still fell by {falling:.1%} within the last tenth: more epochs may help."
        return Verdict("look", about, text)
    return Verdict("good", about, "The loss of stage 1 was flat at its end.")


def _on_epochs(entries: Entries, config: Config) -> Verdict:
    steps, values = series(entries, VALIDATION)
    about = "recommender.epochs"
    if len(values) < 2:
        text = "Validation was not measured on the way (train.eval_every = 0), so nobody can tell"
        text += " whether the epochs were too few or too many. Set train.eval_every and train.keep."
        return Verdict("look", about, text)
    if max(values) <= 0:
        text = "Validation stayed at 0: nothing was learned. Look at the loss, recommender.lr and"
        return Verdict("bad", about, f"{text} the data.")
    best = values.index(max(values))
    where = f"best of {len(values)} measurements at step {steps[best]:,} of {steps[-1]:,}"
    if rise := last_rise(values):
        text = f"Validation still rose at the end ({where}, + {rise:.1%} in the last interval):"
        return Verdict("look", about, f"{text} more epochs.")
    lost = (max(values) - values[-1]) / max(max(values), 1e-9)
    kept = "these weights were kept" if config.train.keep == "best" else "the last were kept"
    if lost > FLAT and config.train.keep != "best":
        text = f"Validation fell by {lost:.1%} after its best ({where}), and {kept}: fewer epochs,"
        return Verdict("bad", about, f"{text} or train.keep = 'best'.")
    if best < len(values) // 3:
        text = f"Validation was best early ({where}; {kept}): fewer epochs, a lower"
        return Verdict("look", about, f"{text} recommender.lr, or more dropout.")
    return Verdict("good", about, f"Validation had levelled off ({where}; {kept}).")


def _power_of_two(number: int) -> int:
    return 1 << max(number - 1, 1).bit_length()
