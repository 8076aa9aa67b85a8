"""Experiments over datasets: `python -m patchify_core study` and `reproduce`.

`experiments` defines which configurations each study compares, and its tables. `run` embeds each dataset once per
encoder and regions, and scores one configuration after the other; it resumes after an interruption. `chart` draws
accuracy against size, `copies` studies several copies in one picture, `paper` reproduces the paper, and `needs`
estimates what that takes. The page's Evaluation and Compression tabs show the files of `study --json`.
"""
