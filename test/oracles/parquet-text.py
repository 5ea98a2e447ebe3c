"""Writes test/fixtures/text/pyarrow.parquet: text as the Python tools write it, for the reader of Parquet files.

    pip install pyarrow && python test/oracles/parquet-text.py
"""

import os

import pyarrow as pa
import pyarrow.parquet as pq

COUNT = 12
text = [f"{i}: é🦊\n" for i in range(COUNT)]
text[3] = None
text[4] = ""
chat = [[{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"a{i}"}] for i in range(COUNT)]
table = pa.table(
    {
        "id": list(range(COUNT)),
        "text": pa.array(text, pa.large_string()),
        "kind": pa.array([str(i % 3) for i in range(COUNT)]).dictionary_encode(),
        "messages": chat,
        "meta": [{"body": f"b{i}", "n": i} for i in range(COUNT)],
        "spans": [[{"concept": "c", "start": 0, "end": 1}] if i % 5 == 0 else None for i in range(COUNT)],
        "price": [1.5] * COUNT,
    }
)
folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures", "text")
os.makedirs(folder, exist_ok=True)
pq.write_table(
    table,
    os.path.join(folder, "pyarrow.parquet"),
    compression="zstd",
    data_page_version="2.0",
    row_group_size=5,
    store_schema=False,
)
