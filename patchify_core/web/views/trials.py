"""The Evaluation tab's table of everything that was tried; its script sorts, filters and draws it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from patchify_core.demo import studies as files
from patchify_core.demo.studies import Studies, make_command
from patchify_core.demo.trials import Trial
from patchify_core.web.views.html import FileUrl, count

TITLES = {
    "encoders": "Encoders",
    "regions": "Regions",
    "compression": "Compression",
    "rerank": "Re-ranking",
    "features": "Features",
    "boxes": "Boxes",
}

COLUMNS = (
    ("regions", "Regions", "which parts of a picture are compared"),
    ("map", "mAP", "ranked first?"),
    ("locscore", "LocScore", "and located correctly?"),
    ("features", "Features", "empty: every patch encoded separately; pooled: one pass per picture, at so many pixels"),
    ("refine", "Boxes", "empty: those of the winning patches; soft or map: refined"),
    ("rerank", "Re-ranker", "what puts the first results in a better order"),
    ("encoder", "Encoder", "the network that describes them"),
    ("kept", "Codec", "how descriptors are compressed"),
    ("codebook", "Codebook", "what the compression was trained on"),
    ("patches", "Patches", "parts of each picture"),
    ("bytes", "Bytes per picture", "size of the codes of one picture"),
    ("ms", "ms per query", "time of search and re-ranking where this was measured"),
)
"""(name, title, what it means) of the table's columns, those that matter most first."""

NUMERIC = frozenset({"patches", "bytes", "map", "locscore", "ms"})

ABOUT = (
    (
        "Query",
        "a picture with a box around one object; the task is to find the gallery pictures that contain that object.",
    ),
    (
        "AP",
        "for one query: 1 if all pictures that contain the object come first, less for every wrong one before them.",
    ),
    ("mAP", "the mean AP of all queries: how good the order is."),
    ("LocScore", "as mAP, but each correct picture is weighted by how well its box fits the object (IoU, 0 to 1)."),
    (
        "Boxes",
        "a picture’s box is that of its winning patch or a refined one; the order stays the same.",
    ),
    ("Global baseline", "whole pictures compared with whole pictures, without patches: what the method must beat."),
    ("±", "half the distance between the best and the worst of several random seeds."),
    ("95 % interval", "where the difference of two configurations would be with other queries like these."),
)


def evaluation(trials: Sequence[Trial], studies: Studies, dataset: str, chosen: Trial | None, url: FileUrl) -> str:
    """The whole table with its controls, charts and sources.

    Args:
        trials: of all datasets.
        studies: the files that they come from.
        dataset: which dataset is shown first.
        chosen: the trial that is looked into, or None.
        url: address of a shipped file.
    """
    if not trials:
        return f'<section class="pf-doc pf-lab"><h2>Every configuration, measured</h2>{sources(studies, url)}</section>'
    rows = "".join(_row(trial, trial is chosen) for trial in trials)
    heads = "".join(_head(*column) for column in COLUMNS)
    return (
        f'<section class="pf-doc pf-lab" data-dataset="{escape(dataset)}">'
        "<h2>Every configuration, measured</h2>"
        "<p class='pf-lead'>The same queries with every configuration of the method. Sort by any column, filter, "
        "and choose a row to see where it fails.</p>"
        f"{_what_it_means()}{_controls(studies.datasets, studies, dataset)}"
        '<div class="pf-scroll" tabindex="0" role="region" aria-label="Table of configurations">'
        '<table class="pf-tbl pf-trials"><caption class="pf-sr">Configurations with their mAP and LocScore. Each column heading '
        f"sorts; the button in a row shows its details.</caption><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        '<p class="pf-none" hidden>No configuration matches: clear the filter.</p></div>'
        '<div class="pf-hcharts"></div>'
        f"{sources(studies, url)}</section>"
    )


def _head(name: str, title: str, about: str) -> str:
    kind, number = ("number", " is-num") if name in NUMERIC else ("text", "")
    return (
        f'<th scope="col" class="pf-head-{name}{number}" data-column="{name}" data-kind="{kind}"><button type="button" '
        f'title="{escape(about)}">{escape(title)}<i aria-hidden="true"></i></button></th>'
    )


def _what_it_means() -> str:
    terms = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in ABOUT)
    return f'<details class="pf-fold"><summary>What do these numbers mean?</summary><dl>{terms}</dl></details>'


def datasets_choice(datasets: Mapping[str, Mapping[str, Any]], chosen: str, name: str) -> str:
    """Radio buttons for the datasets, each with its size."""
    buttons = "".join(
        f'<label><input type="radio" name="{name}" value="{escape(dataset)}"{" checked" if dataset == chosen else ""}>'
        f"<span>{escape(dataset)} <small>{about['pictures']:,} pictures · {count(len(about['queries']), 'query')}</small>"
        "</span></label>"
        for dataset, about in datasets.items()
    ).replace("querys", "queries")
    return f'<fieldset class="pf-seg"><legend>Gallery</legend><div>{buttons}</div></fieldset>'


def _controls(datasets: Mapping[str, Mapping[str, Any]], studies: Studies, chosen: str) -> str:
    options = "".join(f'<option value="{name}">{TITLES[name]}</option>' for name in studies.found)
    return (
        f'<div class="pf-controls">{datasets_choice(datasets, chosen, "pf-dataset")}'
        '<label class="pf-field"><span>Experiment</span><select data-filter="study"><option value="">all</option>'
        f"{options}</select></label>"
        '<label class="pf-field is-wide"><span>Filter</span><input type="search" data-filter="words" '
        'placeholder="e.g. lite0 pq16 informative" autocomplete="off"></label>'
        '<button type="button" class="pf-btn ghost" data-do="csv">Table as CSV</button>'
        '<p class="pf-count" role="status"></p></div>'
    )


def _row(trial: Trial, chosen: bool) -> str:
    mean = trial.mean
    times = [mean.of("ms_per_query"), mean.of("ms_per_rerank")]
    known = [value for value in times if value is not None]
    cells = {
        "map": mean.of("map"),
        "locscore": mean.of("locscore"),
        "features": trial.features,
        "refine": trial["refine"] or "",
        "rerank": trial["rerank"] or "",
        "encoder": trial["encoder"],
        "kept": trial.kept_as,
        "codebook": trial.codebook or "",
        "patches": trial["patches"],
        "bytes": round(trial["bytes_per_image"]),
        "ms": round(sum(known), 1) if known else None,
    }
    tag = ' <em class="pf-tag">global baseline</em>' if trial.baseline else ""
    also = " · ".join(part for part in trial.label.split(" · ") if part != trial["regions"])
    first = (
        f'<th scope="row" data-v="{escape(trial["regions"])}"><button type="button" class="pf-pick" '
        f'aria-pressed="{str(chosen).lower()}" aria-label="Details of {escape(trial.label)}">'
        f"{escape(trial['regions'])}</button>{tag}<small class='pf-also'>{escape(also)}</small></th>"
    )
    return (
        f'<tr data-id="{trial.id}" data-dataset="{escape(trial["dataset"])}" data-studies="{" ".join(trial.studies)}" '
        f'data-label="{escape(trial.label)}"{" data-baseline" if trial.baseline else ""} hidden>{first}'
        + "".join(_cell(trial, name, value) for name, value in cells.items())
        + "</tr>"
    )


def _cell(trial: Trial, name: str, value: Any) -> str:
    kind = f"is-{name} is-num" if name in NUMERIC else f"is-{name}"
    if value is None or value == "":
        return f'<td class="{kind}" data-v="">–</td>'
    if name in ("map", "locscore"):
        spread = trial.mean.spread(name) / 2
        more = f' data-spread="{spread:.4f}"' if trial.seeds > 1 else ""
        text = f"{value:.3f}" + (
            f" <small title='of {trial.seeds} seeds'>± {spread:.3f}</small>" if trial.seeds > 1 else ""
        )
        return f'<td class="{kind}" data-v="{value:.6f}"{more}>{text}</td>'
    text = f"{value:,}" if name in NUMERIC else str(value)
    return f'<td class="{kind}" data-v="{escape(str(value))}">{escape(text)}</td>'


def sources(studies: Studies, url: FileUrl, names: Sequence[str] | None = None) -> str:
    """Where the numbers come from: each file with its command, or why it is not there."""
    parts = []
    for name in names or TITLES:
        if name in studies.found:
            study = studies.found[name]
            link = escape(url(files.FOLDER / f"{name}.json"))
            parts.append(
                f"<li><b>{TITLES[name]}</b> <code>{escape(study.command or make_command(name))}</code> "
                f'<span>on {escape(study.machine)}</span> <a href="{link}" download="{name}.json">{name}.json</a></li>'
            )
        elif name in studies.problems:
            parts.append(f'<li class="is-missing"><b>{TITLES[name]}</b> {code(studies.problems[name])}</li>')
    return f'<div class="pf-sources"><h3>Reproduce these numbers</h3><ul>{"".join(parts)}</ul>{_refused(studies, names)}</div>'


def _refused(studies: Studies, names: Sequence[str] | None) -> str:
    """What could not be had, and why: once for each reason."""
    reasons: dict[str, set[str]] = {}
    for name, study in studies.found.items():
        for row in study.refused if names is None or name in names else ():
            fields = (
                row.get(key) for key in ("encoder", "regions", "factory", "codebook", "features", "refine", "rerank")
            )
            what = " · ".join(str(field) for field in fields if field)
            reasons.setdefault(row["why"], set()).add(f"{what} on {row.get('dataset', '?')}")
    if not reasons:
        return ""
    items = "".join(
        f"<li>{escape(why)} <small>{escape('; '.join(sorted(what)[:3]))}{' …' if len(what) > 3 else ''}</small></li>"
        for why, what in reasons.items()
    )
    return f'<details class="pf-fold"><summary>What could not be measured, and why</summary><ul>{items}</ul></details>'


def code(sentence: str) -> str:
    """A sentence with what stands between backticks set as code."""
    parts = escape(sentence).split("`")
    return "".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts))
