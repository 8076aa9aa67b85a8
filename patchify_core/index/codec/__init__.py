"""How descriptors are coded: FAISS factories, what a codebook is trained on, projections."""
