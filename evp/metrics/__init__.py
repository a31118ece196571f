"""What is counted, for Prometheus: in plain integers, told by whichever process is asked."""
