"""No Robots: about 9,500 conversations written by people, some led by a system message."""

from ila_core.data.formats import Dataset, from_messages

DATASET = Dataset(
    from_messages,
    repo="HuggingFaceH4/no_robots",
    files="data/train*.parquet",
    licence="CC BY-NC 4.0",
)
