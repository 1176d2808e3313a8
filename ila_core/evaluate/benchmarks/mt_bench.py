"""MT-Bench (Tables 1 and 3 to 11): 80 questions of two turns, each graded from 1 to 10."""

from ila_core.evaluate.judged import Judged


class MtBench(Judged):
    name = "mt_bench"
    version = 1
