"""The soft prompt: its value, file format (a PEFT adapter), KV cache prefix, corruption, and tuning."""
