"""The handwritten digits: 1,797 images of 8×8 pixels with codes 0..16, in a fixed split; those of scikit-learn.

They lie beside this file. The test split is the 360 images of scikit-learn's `train_test_split(…, test_size=360,
random_state=0, stratify=y)`; their numbers are listed here, so that it does not change with scikit-learn's shuffling.
The training split is the other 1,437, in the order of the file. What is read is checked against the fingerprints below.
Source: E. Alpaydin and C. Kaynak, "Optical recognition of handwritten digits", UCI machine learning repository, 1998
(its test part), under the licence CC BY 4.0.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nelbo.data import arrays
from nelbo.errors import DataError, UnknownNameError
from nelbo.model.examples import Examples

_FILE = Path(__file__).with_name("digits.npz")
SPLITS = ("all", "train", "test")
BINS = 17

FINGERPRINTS = {
    "all": "2fd2cd726b34ddd6146f77dc1ceea5eef3d9c08565bba0e224bec79d218bac31",
    "train": "8f5aa2b06c8a844230e8ada00e22c48f342b93455f23e58cf2ef570db1cf9403",
    "test": "6a096aa9537c220dd45046af08ceb78b7ff1b4061b42759b478dcd6a915b68a8",
}

_TEST = """
    1496 188 705 820 413 744 1466 500 254 1750 1717 1261 1497 1221 1319 905 442 1758 1776 197 865 768 1442 1566
    386 132 943 1053 1292 556 452 1121 694 702 1655 528 1270 308 1415 204 1772 119 276 1540 1372 1626 1086 766
    39 783 1596 103 770 1513 812 1606 1660 977 1673 1167 497 852 423 267 1406 734 393 1118 1778 675 701 1375 499
    96 569 1332 945 293 610 719 243 1482 1726 87 1716 1455 1395 749 1010 1541 227 876 1006 1629 908 380 1532
    1424 57 34 1101 372 21 35 1582 1668 397 346 1152 1467 1610 1038 102 1560 1049 117 573 198 855 1364 1476 860
    639 493 1162 604 1404 1637 1224 1150 568 328 1262 1217 1512 1107 1666 1253 1771 1520 538 1787 1767 1474 1116
    1440 1487 430 1005 1141 1157 1350 1484 1742 527 1016 885 1233 567 286 937 42 772 1353 789 787 279 245 760
    376 700 918 1136 1331 405 637 314 1734 704 1264 1012 275 1242 716 890 1351 944 159 1296 1405 496 186 1755
    1148 312 1090 822 608 202 105 985 899 666 960 1269 1509 587 808 1450 1551 652 805 951 99 800 741 1159 1703
    1098 1529 1352 173 78 1007 1088 252 205 1123 298 305 326 1003 1173 374 307 283 1728 1073 440 1232 37 420
    1628 481 1634 641 134 417 767 1674 110 1558 1037 667 1002 1789 1429 1704 148 520 1056 806 339 1312 1680 1645
    593 1542 1169 1081 1664 619 1567 997 888 1650 1096 992 788 1151 1161 335 989 81 1608 214 1530 240 28 1168
    900 77 802 410 1613 565 1192 433 1371 854 264 45 1688 1696 425 306 1035 738 1340 1287 990 973 709 1706 1781
    1204 403 454 1576 929 1505 811 1220 926 1268 1030 1614 1187 1602 131 1014 1435 304 794 1617 170 1470 786
    1302 649 1493 24 1745 1791 407 553 51 1174 211 1471 1691 1180 1330 1108 364 1023 1592 344 1770 1009
"""


def split_indices(split: str) -> np.ndarray:
    """Row numbers of a split ("all", "train", "test") in the file, in the order in which it is read."""
    test = np.array(_TEST.split(), dtype=np.int64)
    if split == "test":
        return test
    everything = np.arange(1797)
    return everything if split == "all" else np.setdiff1d(everything, test)


def read_digits(split: str = "all") -> Examples:
    """The digits as codes (N, 8, 8) uint8 in 0..16 (17 bins) with labels; N = 1797 (all), 1437 (train), 360 (test).

    Errors: UnknownNameError for another split; DataError if the file contains other images than those that every
    published number of nelbo was measured on.
    """
    if split not in SPLITS:
        raise UnknownNameError.of("split of the digits", split, SPLITS)
    name = "digits" if split == "all" else f"digits:{split}"
    with np.load(_FILE, allow_pickle=False) as file:
        codes, labels = file["images"], file["labels"].astype(np.int64)
    rows = split_indices(split)
    examples = Examples(arrays.tensor(codes[rows], name), name, arrays.labels(labels[rows]), BINS)
    if examples.fingerprint != FINGERPRINTS[split]:
        raise DataError(
            f"{_FILE} contains other digits than {name!r} (their fingerprint differs)",
            "install nelbo again from an unaltered wheel: pip install --force-reinstall --no-deps nelbo",
        )
    return examples
