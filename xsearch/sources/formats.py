"""The formats of an export, by themselves: the command line names them without loading what writes them."""

from enum import StrEnum


class ExportFormat(StrEnum):
    """What an export is written as: one file, or a folder for NPY and LANCE."""

    PARQUET = "parquet"
    NPY = "npy"
    CSV = "csv"
    LANCE = "lance"
