"""Vicuna (Tables 1 and 3 to 11): 80 questions of one turn, graded from 1 to 10."""

from ila_core.evaluate.judged import Judged


class Vicuna(Judged):
    name = "vicuna"
    version = 1
