"""A visitor's own pictures: sent, indexed while they can be searched already, annotated, scored, taken home, deleted.

names        what a picture is called here, whatever it was called there
collection   one visitor's pictures, on disk in a folder of their own for as long as the visit lasts
indexing     embeds them in the background: progress, cancel, go on
marks        the boxes that the visitor drew, and the score that they give
returned     an index that was taken home and is brought back; not one byte of it is given to FAISS
place        answers queries about them, as `examples` does about the bundled gallery
registry     all visitors' collections: who may see which (nobody else), how much they may hold, and when they end

What tells a visitor's pictures from another's is a token of 192 random bits that only that
visitor's browser and this process know.
"""
