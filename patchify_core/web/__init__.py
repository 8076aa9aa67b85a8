"""The Gradio page.

shelf          the indexes of one gallery that the page offers, each with its encoder, loaded when first chosen
questions      what one visitor asks: a picture and a box, or words; `asking` makes questions
showcase       answers questions: matches with verdicts, scores, a look into one match (`answers` holds their types)
locating       which box a result is shown with: the winning patch's or a refined one, kept with the question
judging        verdicts and scores, by the gallery's annotations
stages         what the nested sets of patches of an index are called on the page
views          words all that as HTML
visits         what a visitor does, as functions from a question to what is shown
events         reads what a browser sends, and turns refusals into notices
tabs           one module a tab of the page; `tabs.MORE` lists those beside the search
page, launch   put the tabs together, and serve them
gate           what every request passes first: `used` lists the addresses there are, `bodies` bounds what is sent,
               `callers` finds out who asks and by which name of the server
serving        starts Gradio's server behind the gate; `connections` gives connections deadlines, `states` keeps visits
served, places the files that are shown, and sentences that say nothing of where they are on this machine

Only `events`, `visits`, `tabs`, `page`, `guarded`, `states`, `serving` and `launch` import Gradio.
"""
