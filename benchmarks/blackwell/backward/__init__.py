"""The Blackwell backward in the model of time, beside FlashAttention-4's."""
