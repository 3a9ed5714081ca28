"""What is measured on a GPU by one command, `bash benchmarks/gpu.sh`."""
