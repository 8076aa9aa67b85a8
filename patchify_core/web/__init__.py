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

Only `events`, `visits`, `tabs`, `page` and `launch` import Gradio.
"""
