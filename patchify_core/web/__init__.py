"""The Gradio page: the only room that imports Gradio or Starlette.

visits         what a visitor does, as functions from a query to what is shown
events         reads what a browser sends, and turns refusals into notices
views          words all that as HTML
tabs           one module a tab of the page; `tabs.MORE` lists those beside the search
page, launch   put the tabs together, and serve them
gate           what every request passes first: `used` lists the addresses there are, `bodies` bounds what is sent,
               `callers` finds out who asks and by which name of the server
guarded        Gradio's blocks and queue for strangers; `host` says who sent what is being answered
serving        starts Gradio's server behind the gate; `connections` gives connections deadlines, `states` keeps visits
own_pictures   the server's addresses for visitors' own pictures; the page's script calls them
served, places the files that are shown, and sentences that say nothing of where they are on this machine
"""
