"""`python -m xsearch` is `xsearch`."""

from xsearch.cli import main

main()
