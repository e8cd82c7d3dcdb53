"""The place that pickles of errors name; the code is in :mod:`prefiq_db.translation.both`.

A pickled error may cross releases: a job queue keeps it, and while a deployment runs, old and new processes share it.
So pickles name one place for ever, and this is the one that they have always named.
"""

from __future__ import annotations

from prefiq_db.translation.both import _rebuild as _rebuild
