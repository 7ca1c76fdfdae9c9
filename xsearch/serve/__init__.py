"""`xsearch serve`: a page and an HTTP API over one library."""
