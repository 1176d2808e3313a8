"""The science: search, selection, training, evaluation; no orchestration and no tracking."""

import logging

# On some CPUs it warns, at every start, that a faster kernel is not installed for weights in 4 bits.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
