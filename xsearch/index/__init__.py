"""From queries to rows: exact search, the FAISS index, and how much of either a library needs. Sole owner of faiss."""

import os

# Read when FAISS is loaded. Its threads otherwise spin while they wait for one another, which beside other work on
# the machine costs seven times the CPU of a build and three times its wall time. Set by the user, it stays as it is.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
