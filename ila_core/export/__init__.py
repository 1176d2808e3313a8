"""Export of a selection to other trainers' configurations, and its verification there."""
