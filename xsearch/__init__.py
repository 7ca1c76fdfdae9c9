"""xsearch finds pictures, moments in films and texts by meaning."""

__version__ = "0.1.0"
