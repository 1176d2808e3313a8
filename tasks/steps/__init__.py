"""The kinds of step: one file each, in folders by phase; `table` lists them."""
