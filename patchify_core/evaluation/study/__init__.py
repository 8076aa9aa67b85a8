"""Experiments over datasets: `python -m patchify_core study encoders | regions | compression | rerank DATASET...`.

Each claim of the paper as a table that anyone can make again: `plans` says which configurations are compared, `run`
embeds what they need once and scores them one after the other, and can be cut and resumed, `report` prints the table
and `chart` draws it. The page's Evaluation and Compression tabs show the files that this wrote.
"""
