"""The actions behind the commands of `ila`, one file each."""
