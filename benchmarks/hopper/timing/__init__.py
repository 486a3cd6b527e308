"""The Hopper forward in the model of time, beside its measured figures."""
