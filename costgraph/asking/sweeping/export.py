"""Sweeps to files of other formats, a bounded part at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from costgraph.asking.sweeping.plan import block_shape, cuts, shown_order
from costgraph.asking.sweeping.store import require
from costgraph.ir.metrics import COUNTED
from costgraph.quoting import csv_text

if TYPE_CHECKING:
    import pandas
    import xarray

#: Rows of one row group.
ROWS = 2**18


def write_netcdf(data: xarray.Dataset, path: Path) -> None:
    """NetCDF-4, chunk by chunk where the data is lazy."""
    require("h5netcdf")
    dask = require("dask")

    # One chunk at a time: memory stays bounded, and no cluster is asked.
    with dask.config.set(scheduler="synchronous"):
        data.to_netcdf(path, engine="h5netcdf")


def columns(data: xarray.Dataset) -> list[str]:
    """Columns of the long table: choices, symbols, metrics, ``fits``.

    A store gives variables back in the order of the alphabet, so that the order
    is made here.
    """
    metrics = {name: i for i, name in enumerate(COUNTED)}
    return [
        *sorted(map(str, data.coords), key=shown_order),
        *sorted(map(str, data.data_vars), key=lambda v: (metrics.get(v, len(metrics)), v)),
    ]


def frames(data: xarray.Dataset, rows: int = ROWS) -> Iterator[pandas.DataFrame]:
    """The long table in parts: a row a point, the last symbol varying fastest.

    Variables that lack a dimension repeat along it.
    """
    if not data.sizes:
        data = data.expand_dims("hardware")
    order = columns(data)
    dims = [c for c in order if c in data.sizes]
    lengths = [data.sizes[d] for d in dims]
    for slices in cuts(lengths, block_shape(lengths, rows)):
        part = data.isel(dict(zip(dims, slices, strict=True))).compute(scheduler="synchronous")
        yield part.to_dataframe(dim_order=dims).reset_index()[order]


def write_csv(data: xarray.Dataset, path: Path) -> None:
    """Comma-separated values with a heading; missing values are empty.

    The format has no place for attributes: what is said of all rows stands in the first
    one, in a last column ``remarks``.
    """
    from costgraph.asking.sweeping.grid import told_lines

    said = " | ".join(line.strip() for line in told_lines(data.attrs))
    with path.open("w", encoding="utf-8", newline="") as file:
        for index, frame in enumerate(frames(data)):
            if said:
                frame["remarks"] = ""
                if index == 0:
                    frame.loc[0, "remarks"] = said
            _plain(frame).to_csv(file, header=index == 0, index=False, lineterminator="\n")


def _plain(frame: pandas.DataFrame) -> pandas.DataFrame:
    """The table with texts that no spreadsheet takes for formulas, headings included."""
    texts = frame.select_dtypes(exclude=["number", "bool"])
    changed = frame.assign(**{c: texts[c].map(_defused) for c in texts})
    return changed.rename(columns=_defused)


def _defused(value: Any) -> Any:
    return csv_text(value) if isinstance(value, str) else value


def write_parquet(data: xarray.Dataset, path: Path) -> None:
    """Parquet, a row group a part; units are metadata of the columns."""
    pa = require("pyarrow")
    parquet = require("pyarrow.parquet")
    fields = []
    for name, variable in data.variables.items():
        kind = {
            "i": pa.int64(),
            "f": pa.float64(),
            "b": pa.bool_(),
        }.get(variable.dtype.kind, pa.dictionary(pa.int32(), pa.string()))
        unit = {"units": str(variable.attrs["units"])} if "units" in variable.attrs else None
        fields.append(pa.field(str(name), kind, metadata=unit))
    by_name = {f.name: f for f in fields}
    about = {"costgraph": json.dumps({str(k): str(v) for k, v in data.attrs.items()})}
    schema = pa.schema([by_name[n] for n in columns(data)], metadata=about)
    with parquet.ParquetWriter(path, schema) as writer:
        for frame in frames(data):
            writer.write_table(_table(pa, schema, frame))


def _table(pa: Any, schema: Any, frame: pandas.DataFrame) -> Any:
    arrays = []
    for field in schema:
        values = pa.array(frame[field.name].to_numpy())
        arrays.append(
            values.cast(pa.string()).dictionary_encode()
            if pa.types.is_dictionary(field.type)
            else values.cast(field.type)
        )
    return pa.Table.from_arrays(arrays, schema=schema)
