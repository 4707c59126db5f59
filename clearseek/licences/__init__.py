"""Licences: what they allow, which one a text is, and what they ask of whoever builds on a model."""

from clearseek.licences.clauses import Clause, restrictions
from clearseek.licences.cover import Change
from clearseek.licences.match import Match, identify
from clearseek.licences.table import LICENCES, Licence, is_open_for, lookup
from clearseek.licences.upstream import Duty, duties, naming_problem

__all__ = [
    "LICENCES",
    "Change",
    "Clause",
    "Duty",
    "Licence",
    "Match",
    "duties",
    "identify",
    "is_open_for",
    "lookup",
    "naming_problem",
    "restrictions",
]
