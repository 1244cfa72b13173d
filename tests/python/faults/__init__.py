"""Random fault schedules: what may happen to daemon and clients, and what must hold after it.

In the order of use: ``run`` draws schedules, ``source`` is what their jobs read, ``machine``
what their daemon runs on, ``world`` holds that daemon and its clients, ``client`` is a
training process, ``wire`` speaks to the daemon by hand, ``faults`` and ``dataset_faults`` are
what goes wrong, and ``checks`` is what must hold after it.
"""
