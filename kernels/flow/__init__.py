"""Optical flow: how it is coded in bytes, and TV-L1 on the CPU and on the GPU."""
