"""MariaDB's and MySQL's error numbers, of the server and of the client library.

Sources: MariaDB's "MariaDB Error Code Reference" and the message file of 10.11 (``perror``), MySQL's "Server Error
Message Reference" and "Client Error Message Reference", Galera's documentation for 1047 and 1180. Up to 1999 the two
share one list; from 3000 on they don't, so each has its own. A ``mysql`` dialect may well talk to a MariaDB server, so
the few numbers that only one side uses, and that matter (3024, 3572, 3819, 4025), are known to both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from prefiq_db.errors import ErrorClass, ErrorKind

_SHARED: Final[dict[ErrorKind, tuple[int, ...]]] = {
    ErrorKind.UNIQUE: (1022, 1062, 1169, 1569, 1586, 1761, 1762, 1859),
    ErrorKind.FOREIGN_KEY: (1216, 1217, 1451, 1452, 1701, 1834, 3008),
    # 1364 and 1423: no value given for a NOT NULL column without a default.
    ErrorKind.NOT_NULL: (1048, 1263, 1364, 1423),
    # 4025 is MariaDB's CHECK, 3819 MySQL's; 1369 is a view's WITH CHECK OPTION.
    ErrorKind.CHECK: (1369, 3819, 4025),
    # 1642-1644 are SIGNAL: a rule written in the database. The rest: no partition accepts the row.
    ErrorKind.INTEGRITY: (1526, 1591, 1642, 1643, 1644, 1737, 1748, 1863),
    # 1020: with innodb_snapshot_isolation (default from MariaDB 11.6.2), the row changed since the snapshot.
    ErrorKind.SERIALIZATION: (1020, 1402, 1964),
    ErrorKind.DEADLOCK: (1213, 1614, 3058),
    # MariaDB uses 1205 for NOWAIT, too; MySQL uses 3572. 1099 and 1223 come from the session's own LOCK TABLES: USAGE.
    ErrorKind.LOCK_TIMEOUT: (1015, 1150, 1165, 1205, 1689, 3572),
    ErrorKind.STATEMENT_TIMEOUT: (1969, 3024, 4192),
    ErrorKind.TRANSACTION_TIMEOUT: (1613,),
    # 1129: blocked until FLUSH HOSTS, see EXACT. 2015-2018 and 2037-2046: pipes and shared memory.
    ErrorKind.CONNECT_FAILED: (
        *(1042, 1043, 1081, 1129, 3159),
        *(2001, 2002, 2003, 2004, 2005, 2007, 2009, 2012, 2015, 2016, 2017, 2018, 2026, *range(2037, 2048)),
        *(2064, 2065, 2066, 2070),
    ),
    ErrorKind.CONNECTION_LOST: (
        *(1080, 1152, 1154, 1155, 1156, 1157, 1158, 1159, 1160, 1161, 1184, 1835, 1927),
        *(2006, 2013, 2014, 2027, 2048, 2055),
    ),
    ErrorKind.TOO_MANY_CONNECTIONS: (1040, 1203, 1226),
    ErrorKind.READ_ONLY: (1036, 1290, 1792, 1836, 1874),
    # Galera: 1047 "WSREP has not yet prepared node", 1180 at COMMIT without a primary component. 3032: offline mode.
    ErrorKind.NOT_READY: (1047, 1180, 3032),
    ErrorKind.SERVER_SHUTDOWN: (1053, 1077, 1078, 1079),
    ErrorKind.AUTHENTICATION: (*(1045, 1130, 1251, 1275, 1698, 1820, 1862, 1873, 2049, 2059, 2061, 2067, 2072, 3118),),
    ErrorKind.PERMISSION: (
        *(1044, 1095, 1131, 1132, 1142, 1143, 1211, 1227, 1345, 1370, 1404, 1405, 1410, 1419, 1448, 1465, 1699, 1700),
        *(1959, 1960, 1961, 1962, 1979),
    ),
    ErrorKind.SYNTAX: (
        *(1055, 1056, 1057, 1058, 1063, 1064, 1065, 1067, 1083, 1084, 1096, 1102, 1103, 1110, 1111, 1115, 1120, 1136),
        *(1140, 1144, 1149, 1166, 1204, 1210, 1221, 1222, 1225, 1234, 1240, 1241, 1245, 1248, 1250, 1253, 1273, 1276),
        *(1280, 1281, 1302, 1382, 1407, 1453, 1458, 1463, 1470, 1474, 1487, 1611, 1626, 1641, 1646, 1691, 1911, 1912),
        # stored programs that don't compile
        *(1303, 1308, 1309, 1310, 1311, 1313, 1314, 1319, 1320, 1321, 1322, 1323, 1324, 1327, 1328, 1330, 1331, 1332),
        *(1333, 1335, 1337, 1338, 1358, 1413, 1414, 1424, 1444, 1456, 1457, 1460),
    ),
    ErrorKind.SCHEMA: (
        # names: missing, already there, ambiguous, or of the wrong sort
        *(1007, 1008, 1046, 1049, 1050, 1051, 1052, 1054, 1060, 1061, 1066, 1072, 1082, 1091, 1106, 1107, 1108, 1109),
        *(1122, 1123, 1125, 1127, 1128, 1133, 1141, 1146, 1147, 1176, 1177, 1191, 1193, 1247, 1268, 1269, 1284, 1286),
        *(1298, 1304, 1305, 1306, 1307, 1318, 1334, 1347, 1356, 1359, 1360, 1361, 1363, 1396, 1403, 1449, 1476, 1477),
        *(1517, 1524, 1537, 1539, 1540, 1541, 1582, 1583, 1584, 1599, 1600, 1601, 1603, 1604, 1605, 1606, 1607, 1630),
        *(1649, 1735, 1747, 1826, 1831, 1932, 1965, 1968, 1973, 1974, 1975, 1976),
        # settings by name
        *(1228, 1229, 1230, 1231, 1232, 1233, 1238, 1272, 1621),
        # impossible definitions
        *(1059, 1068, 1069, 1070, 1071, 1073, 1074, 1075, 1089, 1090, 1097, 1112, 1113, 1117, 1118, 1121, 1145, 1167),
        *(1168, 1170, 1171, 1173, 1212, 1215, 1239, 1252, 1283, 1291, 1293, 1294, 1391, 1425, 1426, 1427, 1439, 1446),
        *(1447, 1450, 1454, 1551, 1553, 1567, 1628, 1629, 1655, 1688, 1709, 1742, 1860, 1967, 1978),
        # the table or the plan changed under the statement, see EXACT
        *(1412, 1615, 1684),
    ),
    ErrorKind.DATA: (
        *(1138, 1139, 1162, 1172, 1242, 1246, 1256, 1258, 1259, 1260, 1261, 1262, 1264, 1265, 1267, 1270, 1271, 1292),
        *(1299, 1300, 1301, 1329, 1339, 1365, 1366, 1367, 1372, 1406, 1409, 1411, 1416, 1441, 1467, 1475, 1525, 1542),
        *(1543, 1552, 1563, 1566, 1575, 1578, 1647, 1648, 1680, 1690, 1741, 1819, 1827, 1869, 1916, 1917, 1918, 1919),
        *(1921, 1922, 1958, 1977, 2032, 3020),
    ),
    ErrorKind.RESOURCE: (
        *(1021, 1037, 1038, 1041, 1104, 1114, 1116, 1119, 1135, 1151, 1153, 1197, 1206, 1257, 1340, 1390, 1436, 1437),
        *(1461, 1473, 1499, 1587, 1637, 1705, 1713, 1799, 1878, 1920, 1931, 2008, 2020, 3015, 3019, 3044),
    ),
    ErrorKind.CANCELLED: (1028, 1317, 2050),
    ErrorKind.UNSUPPORTED: (
        *(1031, 1148, 1163, 1164, 1174, 1178, 1214, 1235, 1289, 1295, 1384, 1385, 1386, 1418, 1464, 1478, 1501, 1506),
        *(1562, 1572, 1616, 1726, 1757, 1764, 1907, 1910, 1970, 1971, 2022, 2036, 2054, 2062, 2068),
    ),
    ErrorKind.USAGE: (
        *(1085, 1086, 1093, 1094, 1099, 1100, 1137, 1175, 1179, 1192, 1207, 1208, 1209, 1223, 1224, 1243, 1288, 1312),
        *(1325, 1326, 1336, 1348, 1349, 1350, 1351, 1352, 1353, 1357, 1362, 1368, 1393, 1394, 1395, 1397, 1398, 1399),
        *(1400, 1415, 1420, 1421, 1422, 1428, 1440, 1442, 1443, 1445, 1462, 1471, 1555, 1556, 1568, 1580, 1645, 1706),
        *(1746, 1758, 1765, 1766, 1769, 1838, 1906, 1929, 1930, 1933, 1957),
        # replication commands and settings in the wrong place
        *(1186, 1198, 1199, 1200, 1254, 1255, 1277, 1373, 1378, 1381, 1387),
        # the client library used out of order
        *(2000, 2019, 2028, 2029, 2030, 2031, 2033, 2034, 2035, 2051, 2052, 2053, 2056, 2057, 2058, 2060, 2063, 2069),
        *(2071,),
    ),
    ErrorKind.INTERNAL: (
        # files, indexes and pages that can't be read or written
        *(1004, 1005, 1006, 1009, 1010, 1011, 1012, 1013, 1014, 1016, 1017, 1018, 1019, 1023, 1024, 1025, 1026, 1027),
        *(1029, 1030, 1032, 1033, 1034, 1035, 1039, 1098, 1105, 1124, 1126, 1181, 1182, 1183, 1187, 1194, 1195, 1220),
        *(1244, 1296, 1297, 1341, 1342, 1343, 1344, 1346, 1374, 1376, 1383, 1388, 1389, 1392, 1401, 1435, 1455, 1459),
        *(1490, 1534, 1535, 1538, 1545, 1549, 1558, 1565, 1570, 1571, 1577, 1602, 1696, 1707, 1712, 1728, 1805, 1808),
        *(1810, 1811, 1812, 1813, 1814, 1815, 1816, 1817, 1877, 1879, 3000),
        # tables of other servers
        *(1429, 1430, 1431, 1432, 1433, 1434),
        # errors of replication
        *(1188, 1189, 1190, 1201, 1202, 1218, 1219, 1236, 1371, 1375, 1377, 1379, 1380, 1417),
    ),
}

# MariaDB alone, from 3000 on: message file of 10.11.
_MARIADB: Final[dict[ErrorKind, tuple[int, ...]]] = {
    ErrorKind.AUTHENTICATION: (4150, 4151),
    ErrorKind.SERIALIZATION: (4060,),
    ErrorKind.INTEGRITY: (4054, 4055),
    # 4031 is "referenced trigger does not exist" here, and MySQL's "disconnected because of inactivity".
    ErrorKind.SCHEMA: (4031, 4064, 4089, 4090, 4091, 4092, 4124, 4156, 4161, 4162),
    ErrorKind.DATA: (4024, 4048, 4049, 4050, 4076, 4078, 4079, 4084, 4107, 4178, 4179),
    ErrorKind.SYNTAX: (4030, 4032, 4074, 4081, 4082, 4083, 4099, 4100, 4141, 4172, 4177),
    ErrorKind.RESOURCE: (4026, 4075, 4139),
    ErrorKind.UNSUPPORTED: (4047, 4053, 4057, 4062, 4063, 4137, 4143, 4165, 4166, 4182),
    ErrorKind.USAGE: (4059, 4145, 4146, 4147, 4149),
}

# MySQL alone, from 3000 on: errorcode.py of mysql-connector-python, generated from the server's message file.
_MYSQL: Final[dict[ErrorKind, tuple[int, ...]]] = {
    ErrorKind.UNIQUE: (3026,),
    # With 3101, group replication rolls back a transaction that lost certification.
    ErrorKind.SERIALIZATION: (3101,),
    ErrorKind.DEADLOCK: (3132,),
    ErrorKind.LOCK_TIMEOUT: (3133,),
    ErrorKind.CONNECTION_LOST: (3169, 4031),
    ErrorKind.NOT_READY: (3100, 3168, 3796, 3797, 3798),
    ErrorKind.READ_ONLY: (3989, 4049),
    ErrorKind.AUTHENTICATION: (3891, 3892, 3955),
    ErrorKind.PERMISSION: (3530, 3552, 3553, 3554, 3555, 3556, 3557, 3619, 3620, 3630, 3879),
    ErrorKind.SCHEMA: (3162, 3163, 3503, 3523, 3615, 3730, 3733, 3734, 3780, 3820, 3821, 3822, 3823, 3939, 3940),
    ErrorKind.DATA: (
        *(3064, 3069, 3150, 3151, 3155, 3156, 3157, 3158, 3505, 3513, 3616, 3617, 3643, 3665, 3666, 3669, 3732, 3751),
        *(3752, 3852, 3853, 3854, 3887, 3900, 3903, 3904, 3907, 3966, 3967, 3986, 3987, 3988, 3995, 3998, 4007, 4032),
    ),
    ErrorKind.SYNTAX: (3065, 3066, 3087, 3088, 3592, 3593, 3594, 3595, 3596, 3601, 3602, 3667, 3668, 3953, 3954),
    ErrorKind.RESOURCE: (3170, 3186, 3230, 3636, 3905, 3906, 3950, 3985),
    ErrorKind.UNSUPPORTED: (3106, 3110, 3161, 3167, 3640, 3658, 3899, 3948, 3981, 3999),
    # 3105: a value for a generated column, MariaDB's 1906
    ErrorKind.USAGE: (3098, 3105, 3568, 3569, 3655, 3750, 3977, 3979, 3994),
}


def _invert(*tables: Mapping[ErrorKind, tuple[int, ...]]) -> Mapping[int, ErrorKind]:
    return {code: kind for table in tables for kind, codes in table.items() for code in codes}


KINDS_MARIADB: Final[Mapping[int, ErrorKind]] = _invert(_SHARED, _MARIADB)
KINDS_MYSQL: Final[Mapping[int, ErrorKind]] = _invert(_SHARED, _MYSQL)

# Ranges of related numbers, for those that no table names: first, last, kind.
_SHARED_RANGES: Final[tuple[tuple[int, int, ErrorKind], ...]] = (
    (1, 199, ErrorKind.INTERNAL),  # the operating system's and the storage engines' numbers
    (1300, 1338, ErrorKind.SYNTAX),  # stored programs
    (1479, 1523, ErrorKind.SCHEMA),  # partition definitions
    (1590, 1598, ErrorKind.INTERNAL),  # replication
    (1652, 1660, ErrorKind.SCHEMA),  # partition definitions
    (1766, 1790, ErrorKind.USAGE),  # GTID settings
    (1821, 1834, ErrorKind.SCHEMA),  # foreign key definitions
    (1845, 1861, ErrorKind.UNSUPPORTED),  # ways to ALTER
    (1871, 1872, ErrorKind.INTERNAL),  # replication
    (1901, 1910, ErrorKind.SCHEMA),  # generated columns
    (1934, 1956, ErrorKind.INTERNAL),  # replication
    (3033, 3055, ErrorKind.DATA),  # geometry
)
_RANGES_MARIADB: Final = (
    *_SHARED_RANGES,
    (4002, 4023, ErrorKind.SYNTAX),  # WITH and windows
    (4035, 4051, ErrorKind.DATA),  # JSON
    (4110, 4136, ErrorKind.SCHEMA),  # system versioning
    (4152, 4159, ErrorKind.SCHEMA),  # periods
    (4169, 4171, ErrorKind.SCHEMA),  # periods
)
_RANGES_MYSQL: Final = (
    *_SHARED_RANGES,
    (3069, 3073, ErrorKind.DATA),  # GeoJSON
    (3102, 3109, ErrorKind.SCHEMA),  # generated columns
    (3140, 3149, ErrorKind.DATA),  # JSON
    (3516, 3521, ErrorKind.DATA),  # geometry
    (3573, 3599, ErrorKind.SYNTAX),  # WITH and windows
    (3753, 3774, ErrorKind.SCHEMA),  # functional indexes and defaults
    (3812, 3818, ErrorKind.SCHEMA),  # CHECK definitions
)

# The definition changed before the statement began its work ("please retry transaction").
_PREPARE_AGAIN: Final = ErrorClass(ErrorKind.SCHEMA, transient=True, retry_statement=True, retry_transaction=True)

#: Codes whose flags differ from those of their kind, by phase.
EXACT: Final[Mapping[str, Mapping[int, ErrorClass]]] = {
    "statement": {
        # The branch is rolled back, the session lives.
        1613: ErrorClass(ErrorKind.TRANSACTION_TIMEOUT, transient=True),
        # Of a statement outside a transaction it may be the end, its own COMMIT, and that isn't certain to have failed.
        1180: ErrorClass(ErrorKind.NOT_READY, transient=True, connection_lost=True, retry_transaction=True),
        1412: _PREPARE_AGAIN,
        1615: _PREPARE_AGAIN,
        # Memory and locks become free when other sessions finish.
        **{code: ErrorClass(ErrorKind.RESOURCE, transient=True) for code in (1037, 1041, 1135, 1206, 3015)},
        # Too many concurrent transactions: this one had not begun to write.
        1637: ErrorClass(ErrorKind.RESOURCE, transient=True, retry_statement=True, retry_transaction=True),
    },
    "connect": {
        # Somebody has to unblock the host, or set up TLS, before another attempt can work.
        1129: ErrorClass(ErrorKind.CONNECT_FAILED),
        2026: ErrorClass(ErrorKind.CONNECT_FAILED),
        3159: ErrorClass(ErrorKind.CONNECT_FAILED),
    },
    "commit": {
        # The node refuses the command unread, so this COMMIT never began. (1180 isn't certain: OUTCOME_UNKNOWN.)
        1047: ErrorClass(ErrorKind.NOT_READY, transient=True, connection_lost=True, retry_transaction=True),
    },
}


def parse(code: str | int) -> int | None:
    """Return *code* as a number, or ``None`` if it isn't one."""
    if isinstance(code, int):
        return int(code)
    text = code.strip()
    return int(text) if text.isascii() and text.isdigit() else None


def _fallback(ranges: tuple[tuple[int, int, ErrorKind], ...]) -> Callable[[int], ErrorKind | None]:
    def fallback(code: int) -> ErrorKind | None:
        """Return the kind of the range that *code* lies in."""
        return next((kind for first, last, kind in ranges if first <= code <= last), None)

    return fallback


fallback_mariadb: Final = _fallback(_RANGES_MARIADB)
fallback_mysql: Final = _fallback(_RANGES_MYSQL)
