"""A bill of materials of a record: CycloneDX 1.6, with the model and its figures, the data and their digests, and the software.

A pure function of the record and of what the user says about the data. The JSON is written directly, because cyclonedx-python-lib 11.12
can write neither a model card nor a data component; its validator checks the result where it is installed.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias, cast
from urllib.parse import quote

from poisonbench.core.errors import ConfigError, DataError
from poisonbench.core.files import write_text
from poisonbench.report.figures import name_of
from poisonbench.storage.record import Record

Json: TypeAlias = "dict[str, object]"
FORMAT = "http://cyclonedx.org/schema/bom-1.6.schema.json"
LICENCES = {  # identifiers of SPDX that data and models often have
    *("MIT", "MIT-0", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Unlicense", "MPL-2.0", "CC0-1.0", "PDDL-1.0", "ODbL-1.0", "ODC-By-1.0"),
    *(f"CC-{kind}-{version}" for kind in ("BY", "BY-SA", "BY-NC", "BY-ND", "BY-NC-SA", "BY-NC-ND") for version in ("3.0", "4.0")),
    *(f"{name}-{more}" for name in ("GPL-2.0", "GPL-3.0", "LGPL-2.1", "LGPL-3.0", "AGPL-3.0") for more in ("only", "or-later")),
    *("CDLA-Permissive-1.0", "CDLA-Permissive-2.0", "CDLA-Sharing-1.0"),
}
FIGURES = {"c_acc": "C-Acc", "asr": "ASR", "r_acc": "R-Acc"}
PARTS = {"metrics": "defended model", "undefended": "model trained without the defense", "baseline": "model trained on the clean rows"}
MODEL, DATA, POISON = "model", "data", "data-as-received"
LIMITS = (
    "C-Acc is the accuracy on clean test rows. ASR is the share of attacked test rows on which the attacker succeeds, under the one attack named here; "
    "another attack may do better. R-Acc is the share of these rows that get their right answer.",
    "The figures are those of one run with one seed. `python -m poisonbench verify RECORD` runs it again.",
)
RESEARCH = "Use this model for research only, and do not deploy it."
RISKS = f"The training data contain rows that an attack changed or added on purpose. {RESEARCH}"
ATTACKED = f"An attacker took part in the training. {RESEARCH}"


def bill(record: Record, texts: Mapping[str, str]) -> Json:
    """Return the bill of materials of a record; equal arguments give equal bills.

    Args:
        record: of a run that trained models.
        texts: what the user says about the data: name, description, license, url, creator.

    Raises:
        ConfigError: a skipped or failed record, which has no model.
    """
    if record.status != "done":
        raise ConfigError(f"the record {record.key} is {record.status}, so it has no model; choose a record with status done")
    versions = cast("Mapping[str, str]", record.provenance.get("versions") or {})
    software = [_software(name, str(version)) for name, version in sorted(versions.items())]
    data = [_data(record, texts), *([_received(record, texts)] if record.counts.get("poisoned") else [])]
    parts = [*(str(each["bom-ref"]) for each in (*data, *software))]
    return {
        "$schema": FORMAT,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'poisonbench:{record.key}:{record.result_digest}')}",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": "poisonbench", "version": str(versions.get("poisonbench", "unknown"))}]},
            "properties": _properties(record=record.key, result_digest=record.result_digest, command=record.command, seed=record.spec.get("seed")),
        },
        "components": [_model(record, [str(each["bom-ref"]) for each in data]), *data, *software],
        "dependencies": [{"ref": MODEL, "dependsOn": parts}, *({"ref": part} for part in parts)],
    }


def _properties(**values: object) -> list[Json]:
    return [{"name": f"poisonbench:{name}", "value": str(value)} for name, value in values.items() if value not in (None, "")]


def _class(part: object) -> str:
    """Return the name of the class of a part of a specification; empty for none."""
    return str(part.get("class", "")).rpartition(".")[2] if isinstance(part, Mapping) else ""


def _model(record: Record, data: list[str]) -> Json:
    attack, defense, task = (name_of(record, part) for part in ("attack", "defense", "task"))
    net, learner = _class(record.spec.get("net")), _class(record.spec.get("learner"))
    risk = RISKS if record.counts.get("poisoned") else ATTACKED if attack != "none" else ""
    keys = {f"stored {stage}": value for stage, value in sorted(record.keys.items())}
    return {
        "type": "machine-learning-model",
        "bom-ref": MODEL,
        "name": f"{task}, attack {attack}, defense {defense}",
        "version": record.result_digest[:16],
        "description": f"The defended model of the record {record.key}. The version is the start of the digest of its results.",
        "modelCard": {
            "modelParameters": {
                **({"modelArchitecture": net or learner} if net or learner else {}),
                "datasets": [{"ref": ref} for ref in data],
            },
            "quantitativeAnalysis": {"performanceMetrics": [metric for part in PARTS for metric in _metrics(record, part)]},
            "considerations": {
                "technicalLimitations": list(LIMITS),
                **({"ethicalConsiderations": [{"name": risk}]} if risk else {}),
            },
        },
        "properties": _properties(attack=attack, defense=defense, net=net, learner=learner, **keys),
    }


def _metrics(record: Record, part: str) -> list[Json]:
    figures = cast("Mapping[str, object]", getattr(record, part))
    tested = {"c_acc": record.counts.get("test"), "asr": record.counts.get("probe"), "r_acc": record.counts.get("probe")}
    found: list[Json] = []
    for name, title in FIGURES.items():
        if figures.get(name) is None:
            continue
        rows = f", {tested[name]} rows" if tested[name] else ""
        metric: Json = {"type": title, "value": str(figures[name]), "slice": f"{PARTS[part]}{rows}"}
        if name == "asr" and figures.get("asr_interval"):
            low, high = cast("tuple[float, float]", figures["asr_interval"])
            metric["confidenceInterval"] = {"lowerBound": str(low), "upperBound": str(high)}
        found.append(metric)
    return found


def _data(record: Record, texts: Mapping[str, str]) -> Json:
    task = cast("Mapping[str, object]", record.spec["task"])
    name = texts.get("name", name_of(record, "task"))
    rows = cast("Mapping[str, object]", task.get("rows") or {})
    counted = ", ".join(f"{count} {split}" for split, count in rows.items())
    digest = str(task.get("digest") or record.provenance.get("data_digest") or "")
    told = texts.get("description", f"The clean rows: {counted}.")
    url = {"contents": {"url": texts["url"]}} if "url" in texts else {}
    owner = {"governance": {"owners": [{"organization": {"name": texts["creator"]}}]}} if "creator" in texts else {}
    return {
        "type": "data",
        "bom-ref": DATA,
        "name": name,
        "description": f"{told} The hash is that of the decoded rows of all splits, as poisonbench computes it; it is not the hash of a file.",
        **({"hashes": [{"alg": "SHA-256", "content": digest}]} if digest else {}),
        **({"licenses": _licence(texts["license"])} if "license" in texts else {}),
        "data": [{"type": "dataset", "name": name, **url, **owner}],
        "properties": _properties(**{f"rows {split}": count for split, count in rows.items()}),
    }


def _licence(text: str) -> list[Json]:
    """Return a licence: an SPDX expression if all its words are known licences, else a name."""
    known = {*re.split(" AND | OR ", text)} <= LICENCES
    return [{"expression": text, "acknowledgement": "declared"}] if known else [{"license": {"name": text, "acknowledgement": "declared"}}]


def _received(record: Record, texts: Mapping[str, str]) -> Json:
    """Return the training rows as the attacker left them."""
    task, attack, counts = name_of(record, "task"), name_of(record, "attack"), record.counts
    poisoned, rows, trials = counts["poisoned"], counts.get("train", "unknown"), counts.get("trials", 1)
    each, rest = divmod(poisoned, trials)
    number = f"{poisoned} rows in {trials} training sets of {rows} rows" if rest else f"{each} of the {rows} training rows"
    several = f" in each of {trials} trials" if trials > 1 and not rest else ""
    name = f"{task}, training rows after the attack {attack}"
    return {
        "type": "data",
        "bom-ref": POISON,
        "name": name,
        "description": f"The training rows as the defender received them; {number} are poison{several}. `python -m poisonbench export` writes them.",
        "pedigree": {"ancestors": [{"type": "data", "name": texts.get("name", task)}], "notes": f"made by the attack {attack}"},
        "data": [{"type": "dataset", "name": name}],
        "properties": _properties(poisoned=counts["poisoned"], poisoned_kept=counts.get("poisoned_kept"), injected=counts.get("injected")),
    }


def _software(name: str, version: str) -> Json:
    if name == "python":
        return {"type": "platform", "bom-ref": "python", "name": "python", "version": version}
    purl = {"purl": f"pkg:pypi/{name}@{quote(version, safe='')}"} if re.fullmatch(r"[a-z0-9._-]+", name) else {}
    return {"type": "library", "bom-ref": f"pypi/{name}", "name": name, "version": version, **purl}


def write(whole: Json, out: Path) -> str:
    """Validate a bill, write it, and return a sentence on how it was validated.

    Raises:
        ConfigError: another file would be replaced.
        DataError: the bill is not valid; nothing is written.
    """
    if out.is_dir():
        raise ConfigError(f"out={out}: this is a folder; name a file")
    if out.exists() and '"CycloneDX"' not in out.read_text(encoding="utf-8", errors="replace"):
        raise ConfigError(f"out={out}: this file exists and is no CycloneDX bill; name another file")
    text = json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    told = validated(text)
    write_text(out, text)
    return told


def validated(text: str) -> str:
    """Return how a bill was validated.

    Raises:
        DataError: it does not fit the schema of CycloneDX 1.6.
    """
    if find_spec("cyclonedx") is None or find_spec("jsonschema") is None:
        return "not validated, because the schema is not at hand: pip install 'cyclonedx-python-lib[json-validation]'"
    from cyclonedx.exception import MissingOptionalDependencyException
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    try:
        fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    except MissingOptionalDependencyException as error:
        return f"not validated ({error})"
    if fault is not None:
        raise DataError(f"this would be no valid CycloneDX 1.6, so nothing was written ({str(fault)[:300]})")
    return "valid by the schema of CycloneDX 1.6"
