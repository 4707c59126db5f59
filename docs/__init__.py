"""Pages for people (``*.md``), and what makes parts of them and the site: :mod:`docs.make`."""
