"""EleutherAI's lm-evaluation-harness on ClearSeek's engine: tasks, metrics and few-shot rules, without a network."""
