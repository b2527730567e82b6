"""What scores and labels: Qwen3-ASR, its vocabulary mapped to the student's, and its labels."""
