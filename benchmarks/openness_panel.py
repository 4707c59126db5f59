"""How far the audit agrees with people: weights, data and code of model families that others rated by hand.

``python benchmarks/openness_panel.py --panel panel.json OLMo.yaml=path/to/OLMo ...`` audits each folder (a checkout of
what the publisher put up; ``smollm.yaml=path@SmolLM3`` where the model has another name). The panel's file has the
European Open Source AI Index's classes under ``osai`` by file name; three are compared: weights
(``weights_basemodel``), training data (``datasources_basemodel``) and training code (``trainingcode``). Where it has
the Model Openness Tool's entries under ``mot``, what those decide is compared too: the final parameters' licence, and
for class I the data sets and the training code (a lower class says nothing of them: the tool counts no higher class
before the lower is whole). Writes ``benchmarks/results/openness_panel.json``, disagreements with their evidence.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from clearseek.audit.audit import audit_release
from clearseek.audit.evidence import Answer, Audit
from clearseek.audit.read.source import Folder
from clearseek.audit.views import framework, plain

RESULT = Path(__file__).parent / "results" / "openness_panel.json"
CLASSES: dict[Answer, str] = {
    "yes": "open", "partly": "partial", "no": "closed", "unknown": "closed", "not applicable": "closed",
}  # fmt: skip


def ours(found: Audit) -> dict[str, tuple[str, str]]:
    """Our class and reason for each of the panel's dimensions."""
    weights = plain(found).entries[0]
    data, code = found["data.training"], found["code.training"]
    return {
        "weights_basemodel": (CLASSES[weights.claimed], found["weights.final"].reason),
        "datasources_basemodel": (CLASSES[data.answer], data.reason),
        "trainingcode": (CLASSES[code.answer], code.reason),
    }


MOT = {
    "deepseek-v3.yaml": "DeepSeek-V3", "deepseek-R1.yaml": "DeepSeek-R1", "llama-3-instruct.yaml": "Llama-3-8B",
    "Mistral.yaml": "Mistral-7B-v0.1", "OLMo.yaml": "OLMo-7B", "Pythia.yaml": "Pythia-2.8B",
}  # fmt: skip
"""The index's file -> the tool's entry of the same family."""


def tool(found: Audit, entry: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Component, our answer, the tool's, and our reason, for what the tool's entry decides."""
    entries = {each.name: each for each in framework(found).entries}
    invalid = {name for name, _ in entry["invalid_III"]} | set(entry["missing_III"]) | set(entry["unlicensed_III"])
    theirs = {"III Open Model: Model parameters (Final)": "Model parameters (Final)" not in invalid}
    if entry["class"] == 1:
        theirs |= {"I Open Science: Datasets": True, "II Open Tooling: Training code": True}
    out = []
    for name, there in theirs.items():
        ours = entries[name]
        reason = "; ".join(f"{row.id}: {row.reason}" for id in ours.rows if (row := found.get(id)) is not None)
        out.append((name, "open" if ours.claimed == "yes" else "not open", "open" if there else "not open", reason))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("releases", nargs="+", metavar="INDEX_FILE=FOLDER")
    parser.add_argument("--panel", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    content: dict[str, Any] = json.loads(arguments.panel.read_text(encoding="utf-8"))
    panel, tools = content["osai"], content.get("mot", {})
    rows: list[dict[str, str]] = []
    for each in arguments.releases:
        file, _, place = each.partition("=")
        folder, _, name = place.partition("@")
        found = audit_release(Folder(Path(folder)), name)
        for dimension, (answer, reason) in ours(found).items():
            theirs = panel[file]["classes"][dimension]
            rows.append({"release": file, "dimension": dimension, "audit": answer, "index": theirs, "reason": reason})
            print(f"{file:24} {dimension:24} {answer:8} {theirs:8} {'' if answer == theirs else 'DIFFERS: ' + reason}")
        for name, answer, theirs, reason in tool(found, tools[MOT[file]]) if file in MOT and tools else ():
            rows.append({"release": file, "dimension": name, "audit": answer, "tool": theirs, "reason": reason})
            print(f"{file:24} {name:42} {answer:8} {theirs:8} {'' if answer == theirs else 'DIFFERS: ' + reason}")
    agree = sum(row["audit"] == row.get("index", row.get("tool")) for row in rows) / len(rows)
    print(f"agreement: {100 * agree:.0f} % of {len(rows)}")
    arguments.out.write_text(json.dumps({"agreement": agree, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
