"""Random fault schedules: what may happen to daemon and clients, and what must hold after it.

In the order of use: ``run`` draws schedules, ``world`` holds a daemon and its clients and
checks them, ``client`` is a training process, ``wire`` speaks to the daemon by hand, and
``faults`` is what goes wrong.
"""
