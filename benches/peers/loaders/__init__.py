"""One file a peer: how it writes its data set, and how it reads batches from it.

A module may have ``prepare(tree, target)``, which writes the files of class folders ``tree``
into ``target`` in the peer's format, and functions ``(data, threads) -> batches``, which are
endless. They run in the peer's own environment, in processes of their own, and import what
they need only when they are called.
"""
