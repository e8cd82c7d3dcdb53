"""MongoDB in the same words: documents instead of rows, PyMongo's own operators, everything else as on SQL.

``db.client`` and ``db.collection(name)`` are PyMongo's own objects. Needs ``pip install 'prefiq-db[mongodb]'``.
"""

from prefiq_db.mongo.document_results import BulkWriteCounts, UpdateCounts
from prefiq_db.mongo.mongo_database import MongoDatabase
from prefiq_db.mongo.mongo_database_async import AsyncMongoDatabase
from prefiq_db.mongo.mongo_transaction import MongoTransaction
from prefiq_db.mongo.mongo_transaction_async import AsyncMongoTransaction

__all__ = [
    "AsyncMongoDatabase",
    "AsyncMongoTransaction",
    "BulkWriteCounts",
    "MongoDatabase",
    "MongoTransaction",
    "UpdateCounts",
]
