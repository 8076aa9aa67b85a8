"""What the page does, without Gradio.

queries        what one visitor asks, a picture and a box, or words, and how it comes about
shelf          the indexes of one gallery that the page offers, each with its encoder, loaded when first chosen
examples       answers queries: matches with verdicts, scores, a look into one match (`answers` holds their types)
locating       which box a result is shown with: the winning patch's or a refined one, kept with the query
judging        verdicts and scores, by the gallery's annotations
stages         what the nested sets of patches of an index are called on the page
walk           the method step by step, on a query; `lookalikes` are what it is compared with
links          a query as an address, and back; `exporting` writes its results as CSV and JSON
paper          "See the paper": its answers, those that are `prepared` beside a gallery, and `film`
studies        the recorded runs that the page shows; `story` begins with them, `trials` and `codecs` try one out
exercise       what a class is given: queries from easy to hard; `lesson` has the numbers of the plan
own            a visitor's own pictures
keeping        what visitors leave is counted, lies in one folder (`home`), and ends
decoding       strangers' pictures are read beside the queue; `turns` says who is next
settings       what a person may tune, and the environment variables that do it
"""
