"""The 27 spatio-temporal statistics of a clip and its flow, on the CPU and on the GPU."""
