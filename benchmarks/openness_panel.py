"""How far the audit agrees with people: weights, data and code of model families that an index rated by hand.

``python benchmarks/openness_panel.py --panel panel.json OLMo.yaml=path/to/OLMo ...`` audits each folder (a checkout of
what the publisher put up; ``smollm.yaml=path@SmolLM3`` where the model has another name) and compares three answers with the index's: weights (``weights_basemodel``), training data
(``datasources_basemodel``) and training code (``trainingcode``). The panel's file has the European Open Source AI
Index's classes under ``osai`` by file name. Writes ``benchmarks/results/openness_panel.json``, disagreements with their
evidence.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from clearseek.openness.audit import audit
from clearseek.openness.evidence import Answer, Audit
from clearseek.openness.source import Folder
from clearseek.openness.views import plain

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("releases", nargs="+", metavar="INDEX_FILE=FOLDER")
    parser.add_argument("--panel", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    panel: dict[str, Any] = json.loads(arguments.panel.read_text(encoding="utf-8"))["osai"]
    rows: list[dict[str, str]] = []
    for each in arguments.releases:
        file, _, place = each.partition("=")
        folder, _, name = place.partition("@")
        found = audit(Folder(Path(folder)), name)
        for dimension, (answer, reason) in ours(found).items():
            theirs = panel[file]["classes"][dimension]
            rows.append({"release": file, "dimension": dimension, "audit": answer, "index": theirs, "reason": reason})
            print(f"{file:24} {dimension:24} {answer:8} {theirs:8} {'' if answer == theirs else 'DIFFERS: ' + reason}")
    agree = sum(row["audit"] == row["index"] for row in rows) / len(rows)
    print(f"agreement: {100 * agree:.0f} % of {len(rows)}")
    arguments.out.write_text(json.dumps({"agreement": agree, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
