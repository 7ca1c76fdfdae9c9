"""Many machines: the owner of ray, which is imported when used and comes with `pip install 'xsearch[ray]'`."""
