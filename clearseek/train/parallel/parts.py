"""Moved: :class:`clearseek.plan.parts.Part`, which `plan` needs too and which has no torch."""

from clearseek.plan.parts import Part as Part
