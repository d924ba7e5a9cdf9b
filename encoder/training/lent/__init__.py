"""Training on a lent machine: a GPU for half an hour, behind a narrow door.

Here text is cleaned and packed into parcels; there parcels are received, models are trained in
a process of their own, and what is done is given back in small files; here they are collected.
Nothing is asked of the other machine but Python and torch, and nothing of its network.
"""
