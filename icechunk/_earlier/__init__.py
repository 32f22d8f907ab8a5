"""Names that users had before the present ones: the one place of all aliases.

Each does what its replacement does; the docstring names the replacement. Nothing here warns: code
that turns warnings into errors goes on working. ``docs/reference/earlier-names.md`` lists them all.
"""
