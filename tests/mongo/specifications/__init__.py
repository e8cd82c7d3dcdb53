"""MongoDB's own specification tests, in their unified test format, run against our verbs and transactions.

The files are not in this repository: they are read from PyMongo's source distribution, see ``spec_files.py``. The
server is ``spec_server.py``, which answers as the specifications say.
"""
