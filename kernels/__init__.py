"""The 27 spatio-temporal statistics of a clip, on the CPU and on the GPU."""
