"""A visitor's own pictures: uploaded, indexed in the background, boxed, scored, downloaded and deleted.

collection     one visitor's pictures, in a folder that lasts as long as the visit
indexing       embeds them in the background, a part at a time
boxes          boxes that the visitor drew, and the score that they give
gallery        answers queries about them, as `example_gallery` does about the bundled gallery
phone          box proposals and rankings for the page for phones
index_archive  an index as a download, and read back without giving FAISS a byte of it
visitor        all of the above for one visitor
registry       all visitors: access, limits, and deletion

A visitor is identified by a token of 192 random bits that only that visitor's browser and this process know.
"""
