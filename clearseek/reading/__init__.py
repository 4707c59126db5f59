"""What the files of a release say: cards, programs, settings, names, links; nothing of it is executed."""
