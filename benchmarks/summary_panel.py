"""Public summaries of training content: fields that the audit finds filled, beside grades that people gave.

``python benchmarks/summary_panel.py FOLDER`` reads the PDFs of the AI Accountability Lab's archive
(``public/archive`` of its repository) that ``panels/aial.json`` names, each as the audit reads one, and prints fields
beside grades. A grade is of how well fields are filled, the audit's count of whether they are: so a low count should
come with a low grade, and a full one says nothing of quality. ``!`` is a model of which nobody found a summary.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from clearseek.audit.checks import content_summary
from clearseek.audit.facts import SummaryFact
from clearseek.reading.source import Folder
from clearseek.reading.subject import Subject

PANEL = Path(__file__).parent / "panels" / "aial.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path)
    archive: Path = parser.parse_args().archive
    for model, given in json.loads(PANEL.read_text(encoding="utf-8"))["grades"].items():
        if "summary" not in given:
            continue
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(archive / given["summary"], Path(folder) / "public-summary.pdf")
            row = content_summary.row(Subject(Folder(Path(folder))))
        filled = sum(len(each.fields) for each in row.facts_of(SummaryFact))
        grades = f"{given['transparency']:3} {given['usefulness']:3}"
        print(f"{model:24} {grades} {filled:2} of {len(content_summary.FIELDS)}  {row.answer}")


if __name__ == "__main__":
    main()
