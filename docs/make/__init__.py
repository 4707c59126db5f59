"""What makes the documentation: ``make docs``, or ``python -m docs.make``.

The pages are Markdown that reads the same in the repository and on the site. Parts of them are what the code says
(:mod:`docs.make.parts`): they stand between comments, are checked in, and the tests fail when one is stale. The site
(:mod:`docs.make.site`) is built from the same files by Zensical, which reads ``mkdocs.yml``.
"""
