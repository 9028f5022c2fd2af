"""The DALI pipelines, on a CPU and on a GPU, what feeds them and what keeps them going."""
