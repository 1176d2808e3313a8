"""The science: search, selection, training, evaluation; no orchestration and no tracking."""

import logging

# On some CPUs it warns at every start that a faster kernel for weights in 4 bits is not installed.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
