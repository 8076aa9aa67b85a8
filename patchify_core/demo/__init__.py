"""What the page does, without Gradio.

settings         settings of the page and their environment variables
indexes          the indexes of a gallery with their encoders; `stages` names their sets of patches
queries          a visitor's query
example_gallery  a gallery: makes queries and answers them (`results`)
box_methods      how the box of a result is found; `reranking` offers the re-rankers
walk             the method step by step; `lookalikes` compares two pictures; `lesson` is for a class
links            links to a search; `exporting` writes its results as CSV and JSON
paper            answers by the paper's method, stored beside a gallery (`gallery_info`); `animation` shows one
studies          the recorded studies; `trials` are their configurations, `overview` the start of the Evaluation tab
compression      codecs that visitors try
own              a visitor's own pictures
storage          budgets for what visitors send, in `server_folders`
decoding         reads strangers' pictures within limits (`memory`); `queueing` says whose turn it is
"""
