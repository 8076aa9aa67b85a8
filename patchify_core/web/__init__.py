"""The Gradio page: the only room that imports Gradio or Starlette.

launch         starts the server, keeps it running and stops it
serving        uvicorn with deadlines for connections; serves `front` at once, and Gradio as soon as it is loaded
gate           checks every request before Gradio sees it: `allowed` addresses, sizes (`bodies`), senders (`callers`)
guarded        Gradio's Blocks, which refuse what does not fit; `fair_queue` shares turns and sessions among callers
front          the plain HTML pages, which need no Gradio
page           the Gradio page, made of `tabs` and the endpoints of `api`
visits         the visitors' actions on the search tab; `events` connects them to Gradio and reports refusals
views          the HTML of the page, from `templates`
own_pictures   routes for visitors' own pictures; `routes` has our other ones, `uploads` guards Gradio's
paths, logs    keep paths of this machine and the content of requests out of answers and log lines
"""
