"""The Scal3R network with MoE depth and its fast-weight memory (torch)."""
