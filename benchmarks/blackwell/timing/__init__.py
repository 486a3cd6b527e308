"""A model of the forward kernels' time: the emulator's recordings at the pace of SASS and units."""
