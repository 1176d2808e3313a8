"""`ila doctor`: checks of the installation, the device, the store and the servers."""
