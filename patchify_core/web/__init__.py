"""The Gradio page: `showcase` answers questions, `views` words them as HTML, `page` lays them out, `launch` serves it.

Only `page` and `launch` import Gradio.
"""
